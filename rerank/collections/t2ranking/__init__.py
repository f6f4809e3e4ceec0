"""Provider of T2Ranking (Xie et al., SIGIR 2023), with 2.3 million passages, in its published tab-separated files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Literal

from rerank.collections.base.corpus import fetch_documents
from rerank.collections.base.files import (
    CollectionFiles,
    FileCollection,
    find_collection_file,
    require_collection_file,
    require_collection_folder,
    require_collection_path,
)
from rerank.collections.t2ranking.rows import (
    POSITIVE,
    CandidateLists,
    read_t2ranking_grades,
    read_t2ranking_lists,
    read_t2ranking_positives,
)
from rerank.errors import DataError, UsageError
from rerank.io.json_records import check_unique_ids
from rerank.io.numbered_rows import lookup_numbered_rows, read_numbered_rows
from rerank.io.topic_formats import convert_sgml_to_plain_text
from rerank.types import Document, Qrels, Query, Ranking, Run

Split = Literal["train", "dev", "test"]


class T2ranking(FileCollection):
    """A folder with T2Ranking's collection.tsv, queries.SPLIT.tsv, qrels.SPLIT.tsv and qrels.retrieval.SPLIT.tsv.

    The files, plain or gzipped, are in the folder or in its sub-folder ``data``. Both tasks use all queries of the
    split. The task ``reranking`` has judgments with grades 0 to 3. The task ``retrieval`` has only positives, with
    grade 1: the passages in qrels.retrieval.SPLIT.tsv or, if that file is missing, the passages with grade 2 or 3 in
    qrels.SPLIT.tsv. In the task ``retrieval``, a query without positives still counts as judged, since the official MRR
    averages over all queries of a run. The judgments of the test split are not public.

    Documents are looked up by id without reading the whole file, unless collection.tsv is gzipped.

    Args:
        folder: The folder.
        split: ``dev``, ``train`` or ``test``.
        task: ``reranking`` or ``retrieval``.
        candidates: A file of candidate lists, with the columns query, passage, rank, and optionally score. The lists of
            the split's queries become the collection's candidates. Empty for no candidates.
        depth: Maximum rank to read from the candidate lists; the texts of these passages are kept in memory.
        markup: ``keep`` to leave passages as published, with ``<br>`` and ``<img>``, as used for the published results;
            ``drop`` to remove tags and decode entities.
    """

    format_name: ClassVar[str] = "T2ranking"

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
        """Locate the files without reading them."""
        where = require_collection_folder(folder, "T2Ranking's files")
        where = (
            where
            if find_collection_file(where, ["collection.tsv"]) or not (where / "data").is_dir()
            else where / "data"
        )
        if depth < 1:
            raise UsageError(f"The collection 't2ranking' has the option depth={depth}", expected="at least 1")
        self._positives = task == "retrieval"
        names = [f"qrels.retrieval.{split}.tsv"] * self._positives + [f"qrels.{split}.tsv"]
        qrels = find_collection_file(where, names)
        files = CollectionFiles(
            docs=(require_collection_file(where, ["collection.tsv"], "folder of T2Ranking"),),
            queries=(
                require_collection_file(where, [f"queries.{split}.tsv"], f"folder of T2Ranking with the split {split}"),
            ),
            qrels=(qrels,) if qrels else (),
        )
        super().__init__(f"t2ranking-{split}", files, language="zh", relevant=1)
        self._lists = require_collection_path(candidates, "a file of candidate lists") if candidates else None
        self._depth = depth
        self._plain = markup == "drop"

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the passages' bytes and the option ``markup``, so all splits and tasks share their indexes."""
        markup = "drop" if self._plain else "keep"
        return CollectionFiles(docs=self.files.docs).digest({"format": self.format_name, "markup": markup})

    def docs(self) -> Iterator[Document]:
        """Return an iterator over the passages in file order, including those without text."""
        rows = read_numbered_rows(self.files.docs[0], "passage")
        return check_unique_ids(((where, self._document(number, text)) for where, number, text in rows), "document")

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the passages with these ids; unknown ids are omitted."""
        return {number: self._document(number, text) for number, text in lookup_numbered_rows(self.files.docs[0], ids)}

    def queries(self) -> list[Query]:
        """Return all queries of the split, in file order."""
        rows = read_numbered_rows(self.files.queries[0], "query")
        return list(
            check_unique_ids(((where, Query(id=number, text=text.strip())) for where, number, text in rows), "query")
        )

    def candidates(self) -> Run:
        """Return the candidate lists, with passage texts; empty if no file of candidates is given.

        The scores of a list are kept if all are present and do not increase; otherwise, the score at rank r is 1/r.
        """
        if self._lists is None:
            return Run((), name=self.name)
        queries = {query.id: query for query in self.queries()}
        lists: CandidateLists = read_t2ranking_lists(
            self._lists, queries, self._depth, has_zero=bool(self.lookup(["0"]))
        )
        docs = fetch_documents(self, {doc for row in lists.values() for doc, _ in row})
        return Run(
            (_t2ranking_collection_candidates(queries[query], row, docs) for query, row in lists.items()),
            name=self.name,
        )

    @cached_property
    def _judged(self) -> Qrels:
        if not self.files.qrels:
            return Qrels({}, name=self.name)
        path = self.files.qrels[0]
        if not self._positives:
            table = read_t2ranking_grades(path)
        elif path.name.startswith("qrels.retrieval."):
            table = read_t2ranking_positives(path)
        else:
            graded = read_t2ranking_grades(path)
            table = {q: {doc: 1 for doc, grade in row.items() if grade >= POSITIVE} for q, row in graded.items()}
        queries = [query.id for query in self.queries()]
        if missing := sorted(table.keys() - set(queries)):
            raise DataError(
                f"{len(missing)} of the {len(table)} queries in {path} are not in {self.files.queries[0]}, including "
                f"{', '.join(missing[:3])}",
                remedy="Check that the files belong to the same collection",
            )
        if self._positives:
            table = {query: table.get(query, {}) for query in queries}
        return Qrels(table, name=str(path))

    def _document(self, number: str, text: str) -> Document:
        return Document(id=number, text=convert_sgml_to_plain_text(text) if self._plain else text)


def _t2ranking_collection_candidates(
    query: Query, row: list[tuple[str, float | None]], docs: dict[str, Document]
) -> Ranking:
    listed = tuple(docs[doc] for doc, _ in row)
    scores = tuple(score for _, score in row if score is not None)
    if len(scores) == len(row) and all(below <= above for above, below in pairwise(scores)):
        return Ranking(query, listed, scores)
    return Ranking.from_order(query, listed)
