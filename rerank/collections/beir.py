"""Provider of collections in the layout of the BEIR benchmark (Thakur et al., NeurIPS 2021 Datasets and Benchmarks)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from rerank.collections.base.files import (
    CollectionFiles,
    FileCollection,
    collection_name_of_path,
    find_collection_file,
    require_collection_file,
    require_collection_folder,
)
from rerank.errors import DataError, UnknownNameError
from rerank.io.json_records import read_json_lines_file_documents, read_json_lines_query_file
from rerank.types import Document, Query


class Beir(FileCollection):
    """A BEIR folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, each plain or gzipped.

    If there are judgments, only the queries judged in the split are used. Without a folder ``qrels``, all queries are
    used, and there are no judgments.

    Args:
        folder: The folder.
        split: Name of a file in ``qrels``, without extension.
        drop_self: Whether to apply BEIR's rule, by which a document with the query's own id is dropped.
        language: ISO 639 code of the documents' language.
        relevant: Lowest grade that binary measures count as relevant.
    """

    format_name: ClassVar[str] = "Beir"

    def __init__(
        self, folder: str, *, split: str = "test", drop_self: bool = True, language: str = "en", relevant: int = 1
    ) -> None:
        """Locate the files without reading them."""
        where = require_collection_folder(folder, "a BEIR folder with corpus.jsonl, queries.jsonl and qrels/")
        qrels = _read_beir_qrels(where, split)
        name = collection_name_of_path(where)
        files = CollectionFiles(
            docs=(require_collection_file(where, ["corpus.jsonl"], "BEIR folder"),),
            queries=(require_collection_file(where, ["queries.jsonl"], "BEIR folder"),),
            qrels=(qrels,) if qrels else (),
        )
        super().__init__(name if split == "test" else f"{name}-{split}", files, language=language, relevant=relevant)
        self.drop_self = drop_self

    def docs(self) -> Iterator[Document]:
        """Yield the documents in file order."""
        return read_json_lines_file_documents(self.files.docs[0])

    def queries(self) -> list[Query]:
        """Return the queries judged in the split, or all queries if there are no judgments, in file order."""
        queries = read_json_lines_query_file(self.files.queries[0])
        judged = self.qrels()
        if not judged:
            return queries
        if missing := sorted(judged.keys() - {query.id for query in queries}):
            raise DataError(
                f"{len(missing)} of the {len(judged)} queries in {judged.name} are not in {self.files.queries[0]}, "
                f"including {', '.join(map(repr, missing[:3]))}",
                remedy="Check that the files belong to the same collection",
            )
        return [query for query in queries if query.id in judged]


def _read_beir_qrels(where: Path, split: str) -> Path | None:
    path = find_collection_file(where / "qrels", [f"{split}.tsv"])
    files = [*(where / "qrels").glob("*.tsv"), *(where / "qrels").glob("*.tsv.gz")]
    if path is None and files:
        raise UnknownNameError("split", split, {file.name.removesuffix(".gz").removesuffix(".tsv") for file in files})
    return path
