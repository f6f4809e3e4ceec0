"""Collections in the layout of the BEIR benchmark (Thakur et al., NeurIPS 2021 Datasets and Benchmarks)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rerank.collections.base.files import FileCollection, Files, existing_folder, locate, require, stem
from rerank.errors import DataError, UnknownNameError
from rerank.io.json_records import read_documents, read_queries
from rerank.types import Document, Query


class Beir(FileCollection):
    """A folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, each of them plain or gzipped.

    Where there are judgments, the queries are those of the split. A folder without ``qrels`` gives all queries and
    no judgments.

    Args:
        folder: The folder.
        split: Which judgments: the name of a file in ``qrels``, without its ending.
        drop_self: BEIR's rule, on by default: a document with the query's own id is dropped from its list.
        language: ISO 639 code of the documents.
        relevant: The lowest grade that binary measures count as relevant.

    Raises:
        MissingResourceError: The folder, its corpus or its queries are not there.
        UnknownNameError: There are judgments, and none for this split.
    """

    def __init__(
        self, folder: str, *, split: str = "test", drop_self: bool = True, language: str = "en", relevant: int = 1
    ) -> None:
        """Find the files; nothing is read yet."""
        where = existing_folder(folder, "a BEIR folder with corpus.jsonl, queries.jsonl and qrels/")
        qrels = _qrels(where, split)
        name = stem(where)
        files = Files(
            docs=(require(where, ["corpus.jsonl"], "BEIR folder"),),
            queries=(require(where, ["queries.jsonl"], "BEIR folder"),),
            qrels=(qrels,) if qrels else (),
        )
        super().__init__(name if split == "test" else f"{name}-{split}", files, language=language, relevant=relevant)
        self.drop_self = drop_self

    def docs(self) -> Iterator[Document]:
        """Stream the documents."""
        return read_documents(self.files.docs[0])

    def queries(self) -> list[Query]:
        """The split's queries in file order.

        Raises:
            DataError: The judgments have a query that the queries lack, or the file is wrong.
        """
        queries = read_queries(self.files.queries[0])
        judged = self.qrels()
        if not judged:
            return queries
        if missing := sorted(judged.keys() - {query.id for query in queries}):
            raise DataError(
                f"{len(missing)} of the {len(judged)} queries in {judged.name} are not in {self.files.queries[0]}, "
                f"first {', '.join(map(repr, missing[:3]))}",
                remedy="Check that the files belong together",
            )
        return [query for query in queries if query.id in judged]


def _qrels(where: Path, split: str) -> Path | None:
    found = locate(where / "qrels", [f"{split}.tsv"])
    files = [*(where / "qrels").glob("*.tsv"), *(where / "qrels").glob("*.tsv.gz")]
    if found is None and files:
        raise UnknownNameError("split", split, {file.name.removesuffix(".gz").removesuffix(".tsv") for file in files})
    return found
