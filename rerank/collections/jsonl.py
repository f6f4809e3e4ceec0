"""Provider of collections in JSON lines, with one object per document or query and any of the usual field names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rerank.collections.base.files import (
    CollectionFiles,
    FileCollection,
    collection_name_of_path,
    find_collection_file,
    require_collection_file,
    require_collection_path,
)
from rerank.errors import UsageError
from rerank.io.json_records import read_json_lines_file_documents, read_json_lines_query_file
from rerank.types import Document, Query

_DOCS = ("docs.jsonl", "corpus.jsonl")
_QUERIES = ("queries.jsonl",)
_QRELS = ("qrels.tsv", "qrels.txt", "qrels.trec")


class Jsonl(FileCollection):
    """A folder with docs.jsonl, queries.jsonl and qrels.tsv (or .txt, .trec), or single files; plain or gzipped.

    A document is ``{"id": ..., "text": ..., "title": ...}``, a query ``{"id": ..., "text": ...}``. The id may also be
    called _id, pid, docid, docno, doc_id (queries: _id, qid, query_id), and the text may be called segment, contents,
    content, body, passage (queries: query, question); the first name that is present is used. A document may have a
    picture, with or without text: ``{"id": ..., "image": "photos/1.jpg"}``. Paths are relative to the folder of the
    documents' file.

    Args:
        path: The folder, or the file of the documents; optional if ``docs`` or ``queries`` is given.
        docs: The file of the documents; replaces the one in the folder.
        queries: The file of the queries; replaces the one in the folder.
        qrels: The file of the judgments, in any supported format; replaces the one in the folder.
        language: ISO 639 code of the documents' language.
        relevant: Lowest grade that binary measures count as relevant.
    """

    format_name: ClassVar[str] = "Jsonl"

    def __init__(
        self,
        path: str = "",
        *,
        docs: str = "",
        queries: str = "",
        qrels: str = "",
        language: str = "en",
        relevant: int = 1,
    ) -> None:
        """Locate the files without reading them."""
        options = {"docs": docs, "queries": queries, "qrels": qrels}
        named = {kind: (require_collection_path(file, "a file"),) for kind, file in options.items() if file}
        if not path and not named:
            raise UsageError(
                "The collection 'jsonl' has neither a folder nor files",
                expected="jsonl:FOLDER or jsonl:docs=FILE,queries=FILE,qrels=FILE",
            )
        if path and Path(path).expanduser().is_file() and docs:
            raise UsageError(f"Two files of documents are given: {path} and {docs}", expected="one of the two")
        files = CollectionFiles(**{**(_find_collection_files(path, alone=not named) if path else {}), **named})
        shown = Path(path) if path else next(iter(named.values()))[0]
        super().__init__(collection_name_of_path(shown), files, language=language, relevant=relevant)

    def docs(self) -> Iterator[Document]:
        """Return an iterator over the documents in file order; empty if there are none."""
        return (
            (self._resolve_image(doc) for doc in read_json_lines_file_documents(self.files.docs[0]))
            if self.files.docs
            else iter(())
        )

    def queries(self) -> list[Query]:
        """Return all queries in file order; empty if there are none."""
        return read_json_lines_query_file(self.files.queries[0]) if self.files.queries else []

    def _resolve_image(self, doc: Document) -> Document:
        return replace(doc, image=str(self.files.docs[0].resolve().parent / doc.image)) if doc.image else doc


def _find_collection_files(path: str, *, alone: bool) -> dict[str, tuple[Path, ...]]:
    """Return the files of a folder by kind; a path of a file is returned as the file of the documents.

    Args:
        path: The folder or file.
        alone: Whether the folder must contain documents or queries, because no other files are given.
    """
    where = require_collection_path(path, "a folder or a file")
    if not where.is_dir():
        return {"docs": (where,)}
    if alone:
        require_collection_file(where, [*_DOCS, *_QUERIES], "folder of JSON lines")
    places = (("docs", _DOCS), ("queries", _QUERIES), ("qrels", _QRELS))
    return {kind: (file,) for kind, names in places if (file := find_collection_file(where, names))}
