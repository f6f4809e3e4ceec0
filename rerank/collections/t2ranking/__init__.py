"""T2Ranking (Xie et al., SIGIR 2023) as it is published: tab-separated files, 2.3 million passages read as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Literal

from rerank.collections.base.corpus import fetch
from rerank.collections.base.files import FileCollection, Files, existing, existing_folder, locate, require
from rerank.collections.t2ranking.rows import POSITIVE, Lists, read_grades, read_lists, read_positives
from rerank.errors import DataError, UsageError
from rerank.io.json_records import once
from rerank.io.numbered_rows import look_up, read_rows
from rerank.io.sgml import plain
from rerank.types import Document, Qrels, Query, Ranking, Run

Split = Literal["train", "dev", "test"]


class T2ranking(FileCollection):
    """A folder with T2Ranking's collection.tsv, queries.SPLIT.tsv, qrels.SPLIT.tsv and qrels.retrieval.SPLIT.tsv.

    The files, plain or gzipped, lie in the folder or in ``data`` in it. All queries of the split are given, in both
    tasks. The judgments of ``reranking`` have grades 0 to 3. Those of ``retrieval`` have the positives alone, with
    grade 1: qrels.retrieval.SPLIT.tsv, or where that file is not there, what has grade 2 or 3; a query without any
    still counts as judged, since the official MRR is over all queries of a run. The judgments of the test split
    are not public.

    Documents are found by id at once where collection.tsv is not gzipped.

    Args:
        folder: The folder.
        split: ``dev``, ``train`` or ``test``.
        task: ``reranking`` or ``retrieval``.
        candidates: A file of candidate lists: query, passage, rank, and maybe a score. Those of the split's queries
            are the collection's own lists.
        depth: How far down they are read; their passages' texts are held in memory.
        markup: ``keep`` leaves passages as they are published, with ``<br>`` and ``<img>``, as the published figures
            have them; ``drop`` takes tags out and turns entities into characters.

    Raises:
        MissingResourceError: The folder, its passages or the split's queries, or the candidates are not there.
        UsageError: A depth below 1.
    """

    def __init__(
        self,
        folder: str,
        *,
        split: Split = "dev",
        task: Literal["reranking", "retrieval"] = "reranking",
        candidates: str = "",
        depth: int = 100,
        markup: Literal["keep", "drop"] = "keep",
    ) -> None:
        """Find the files; nothing is read yet."""
        where = existing_folder(folder, "T2Ranking's files")
        where = where if locate(where, ["collection.tsv"]) or not (where / "data").is_dir() else where / "data"
        if depth < 1:
            raise UsageError(f"depth={depth}", expected="at least 1")
        self._positives = task == "retrieval"
        wanted = [f"qrels.retrieval.{split}.tsv"] * self._positives + [f"qrels.{split}.tsv"]
        qrels = locate(where, wanted)
        files = Files(
            docs=(require(where, ["collection.tsv"], "folder of T2Ranking"),),
            queries=(require(where, [f"queries.{split}.tsv"], f"folder of T2Ranking with the split {split}"),),
            qrels=(qrels,) if qrels else (),
        )
        super().__init__(f"t2ranking-{split}", files, language="zh", relevant=1)
        self._lists = existing(candidates, "a file of candidate lists") if candidates else None
        self._depth = depth
        self._plain = markup == "drop"

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the passages' bytes and what is done to them: splits and tasks share their indexes."""
        markup = "drop" if self._plain else "keep"
        return Files(docs=self.files.docs).digest({"format": type(self).__name__, "markup": markup})

    def docs(self) -> Iterator[Document]:
        """Stream the passages; one without text stays, as the file has it."""
        rows = read_rows(self.files.docs[0], "passage")
        return once(((where, self._document(number, text)) for where, number, text in rows), "document")

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """The passages with these ids; ids that do not exist are left out."""
        return {number: self._document(number, text) for number, text in look_up(self.files.docs[0], ids)}

    def queries(self) -> list[Query]:
        """All queries of the split, in file order."""
        rows = read_rows(self.files.queries[0], "query")
        return list(once(((where, Query(id=number, text=text.strip())) for where, number, text in rows), "query"))

    def candidates(self) -> Run:
        """The lists of the candidates file with the passages' texts; empty if none was named.

        Scores are kept where all of a list are there and none is above the one before it; else it is 1/r at rank r.

        Raises:
            DataError: They name a passage that the collection lacks, or the file is wrong.
        """
        if self._lists is None:
            return Run((), name=self.name)
        queries = {query.id: query for query in self.queries()}
        lists: Lists = read_lists(self._lists, queries, self._depth, has_zero=bool(self.lookup(["0"])))
        docs = fetch(self, {doc for row in lists.values() for doc, _ in row})
        return Run((_ranking(queries[query], row, docs) for query, row in lists.items()), name=self.name)

    @cached_property
    def _judged(self) -> Qrels:
        if not self.files.qrels:
            return Qrels({}, name=self.name)
        path = self.files.qrels[0]
        if not self._positives:
            table = read_grades(path)
        elif path.name.startswith("qrels.retrieval."):
            table = read_positives(path)
        else:
            graded = read_grades(path)
            table = {q: {doc: 1 for doc, grade in row.items() if grade >= POSITIVE} for q, row in graded.items()}
        queries = [query.id for query in self.queries()]
        if missing := sorted(table.keys() - set(queries)):
            raise DataError(
                f"{len(missing)} of the {len(table)} queries in {path} are not in {self.files.queries[0]}, first "
                f"{', '.join(missing[:3])}",
                remedy="Check that the files belong together",
            )
        if self._positives:
            table = {query: table.get(query, {}) for query in queries}
        return Qrels(table, name=str(path))

    def _document(self, number: str, text: str) -> Document:
        return Document(id=number, text=plain(text) if self._plain else text)


def _ranking(query: Query, row: list[tuple[str, float | None]], docs: dict[str, Document]) -> Ranking:
    listed = tuple(docs[doc] for doc, _ in row)
    scores = tuple(score for _, score in row if score is not None)
    if len(scores) == len(row) and all(below <= above for above, below in pairwise(scores)):
        return Ranking(query, listed, scores)
    return Ranking.from_order(query, listed)
