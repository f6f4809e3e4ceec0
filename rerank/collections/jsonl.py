"""Collections of JSON lines: one object a document, one a query, with any of the usual names for their fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rerank.collections.base.files import FileCollection, Files, existing, locate, require, stem
from rerank.errors import UsageError
from rerank.io.json_records import read_documents, read_queries
from rerank.types import Document, Query

_DOCS = ("docs.jsonl", "corpus.jsonl")
_QUERIES = ("queries.jsonl",)
_QRELS = ("qrels.tsv", "qrels.txt", "qrels.trec")


class Jsonl(FileCollection):
    """A folder with docs.jsonl, queries.jsonl and qrels.tsv (or .txt, .trec), or single files; gzip too.

    A document is ``{"id": ..., "text": ..., "title": ...}``, a query ``{"id": ..., "text": ...}``. The id may also be
    called _id, pid, docid, docno, doc_id (queries: _id, qid, query_id) and the text segment, contents, content, body,
    passage (queries: query, question); the first of these that is there counts. A document may be a picture, or have
    one: ``{"id": ..., "image": "photos/1.jpg"}``; paths start from the folder of the documents' file.

    Args:
        path: The folder, or the file of the documents; may be left out where ``docs`` or ``queries`` are given.
        docs: The file of the documents, in place of the folder's.
        queries: The file of the queries, in place of the folder's.
        qrels: The file of the judgments, in any form that is read, in place of the folder's.
        language: ISO 639 code of the documents.
        relevant: The lowest grade that binary measures count as relevant.

    Raises:
        MissingResourceError: A file or folder is not there, or the folder has neither documents nor queries.
        UsageError: Nothing was named, or the documents twice.
    """

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
        """Find the files; nothing is read yet."""
        given = {"docs": docs, "queries": queries, "qrels": qrels}
        named = {kind: (existing(file, "a file"),) for kind, file in given.items() if file}
        if not path and not named:
            raise UsageError("jsonl: names no file", expected="jsonl:FOLDER or jsonl:docs=FILE,queries=FILE,qrels=FILE")
        if path and Path(path).expanduser().is_file() and docs:
            raise UsageError(f"The documents are named twice: {path} and {docs}", expected="one of the two")
        files = Files(**{**(_found(path, alone=not named) if path else {}), **named})
        shown = Path(path) if path else next(iter(named.values()))[0]
        super().__init__(stem(shown), files, language=language, relevant=relevant)

    def docs(self) -> Iterator[Document]:
        """Stream the documents."""
        return (self._placed(doc) for doc in read_documents(self.files.docs[0])) if self.files.docs else iter(())

    def queries(self) -> list[Query]:
        """All queries in file order."""
        return read_queries(self.files.queries[0]) if self.files.queries else []

    def _placed(self, doc: Document) -> Document:
        return replace(doc, image=str(self.files.docs[0].resolve().parent / doc.image)) if doc.image else doc


def _found(path: str, *, alone: bool) -> dict[str, tuple[Path, ...]]:
    """The files of a folder, by kind; it may lack all of them only where others are named beside it."""
    where = existing(path, "a folder or a file")
    if not where.is_dir():
        return {"docs": (where,)}
    if alone:
        require(where, [*_DOCS, *_QUERIES], "folder of JSON lines")
    places = (("docs", _DOCS), ("queries", _QUERIES), ("qrels", _QRELS))
    return {kind: (file,) for kind, names in places if (file := locate(where, names))}
