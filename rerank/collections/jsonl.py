"""Providers of collections in JSON lines: BEIR folders, files with any of the usual field names, and picture files."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from rerank.collections.base import (
    CollectionFiles,
    FileCollection,
    find_file,
    name_of_path,
    optional_path,
    require_file,
    require_path,
)
from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.io.json_records import read_json_lines_file_documents, read_json_lines_query_file
from rerank.io.pictures import picture_hash
from rerank.types import Document, Query

_DOCS, _QUERIES = ("docs.jsonl", "corpus.jsonl"), ("queries.jsonl",)
_QRELS = ("qrels.tsv", "qrels.txt", "qrels.trec")
#: Extensions of picture files, in lower case; extensions in upper case are accepted, too.
ENDINGS = frozenset((".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
#: Characters that are escaped in ids: whitespace, which run files cannot contain, and the escape character.
_NOT_IN_IDS = re.compile(r"[\s%]")


class Jsonl(FileCollection):
    """A folder with docs.jsonl, queries.jsonl and qrels.tsv (or .txt, .trec), or single files; plain or gzipped.

    A document is ``{"id": ..., "text": ..., "title": ...}``, a query ``{"id": ..., "text": ...}``. The id may also be
    called _id, pid, docid, docno, doc_id (queries: _id, qid, query_id), and the text may be called segment, contents,
    content, body, passage (queries: query, question); the first name that is present is used. A document may have a
    picture, with or without text: ``{"id": ..., "image": "photos/1.jpg"}``. Paths are relative to the folder of the
    documents' file. ``path`` is the folder or the file of the documents. ``docs``, ``queries`` and ``qrels`` (in any
    supported format) replace the file in the folder; with ``docs`` or ``queries``, ``path`` may be omitted.
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
        options = {"docs": docs, "queries": queries, "qrels": qrels}
        files = {kind: optional_path(file) for kind, file in options.items() if file}
        if not path and not files:
            raise UsageError(
                "The collection 'jsonl' has neither a folder nor files",
                expected="jsonl:FOLDER or jsonl:docs=FILE,queries=FILE,qrels=FILE",
            )
        if path and Path(path).expanduser().is_file() and docs:
            raise UsageError(f"Two files of documents are given: {path} and {docs}", expected="one of the two")
        shown = Path(path) if path else next(iter(files.values()))[0]
        if path:
            where = require_path(path, "a folder or a file")
            if where.is_dir():
                if not files:
                    require_file(where, [*_DOCS, *_QUERIES], "folder of JSON lines")
                places = {"docs": _DOCS, "queries": _QUERIES, "qrels": _QRELS}
                found = {kind: find_file(where, names) for kind, names in places.items()}
                files = {kind: (file,) for kind, file in found.items() if file} | files
            else:
                files = {"docs": (where,)} | files
        super().__init__(name_of_path(shown), CollectionFiles(**files), language=language, relevant=relevant)

    def docs(self) -> Iterator[Document]:
        for path in self.files.docs:
            for doc in read_json_lines_file_documents(path):
                yield replace(doc, image=str(path.resolve().parent / doc.image)) if doc.image else doc


class Beir(FileCollection):
    """A BEIR folder with corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, each plain or gzipped.

    If there are judgments, only the queries judged in the split are used. Without a folder ``qrels``, all queries are
    used, and there are no judgments. Source: Thakur et al., NeurIPS 2021 Datasets and Benchmarks. ``drop_self`` applies
    BEIR's rule, by which a document with the query's own id is dropped.
    """

    format_name: ClassVar[str] = "Beir"

    def __init__(
        self, folder: str, *, split: str = "test", drop_self: bool = True, language: str = "en", relevant: int = 1
    ) -> None:
        where = require_path(folder, "a BEIR folder with corpus.jsonl, queries.jsonl and qrels/", folder=True)
        qrels = find_file(where / "qrels", [f"{split}.tsv"])
        others = [*(where / "qrels").glob("*.tsv"), *(where / "qrels").glob("*.tsv.gz")]
        if qrels is None and others:
            splits = {file.name.removesuffix(".gz").removesuffix(".tsv") for file in others}
            raise UnknownNameError("split", split, splits)
        name = name_of_path(where)
        files = CollectionFiles(
            docs=(require_file(where, ["corpus.jsonl"], "BEIR folder"),),
            queries=(require_file(where, ["queries.jsonl"], "BEIR folder"),),
            qrels=(qrels,) if qrels else (),
        )
        super().__init__(name if split == "test" else f"{name}-{split}", files, language=language, relevant=relevant)
        self.drop_self = drop_self

    def docs(self) -> Iterator[Document]:
        return read_json_lines_file_documents(self.files.docs[0])

    def queries(self) -> list[Query]:
        """Return the queries judged in the split, or all queries if there are no judgments, in file order."""
        queries = read_json_lines_query_file(self.files.queries[0])
        judged = self.qrels()
        if missing := sorted(judged.keys() - {query.id for query in queries}):
            raise DataError(
                f"{len(missing)} of the {len(judged)} queries in {judged.name} are not in {self.files.queries[0]}, "
                f"including {', '.join(map(repr, missing[:3]))}",
                remedy="Check that the files belong to the same collection",
            )
        return [query for query in queries if not judged or query.id in judged]


class Pictures(FileCollection):
    """The picture files of a folder and its sub-folders, one document each: jpg, png, webp, gif, tif, bmp, avif.

    The id of a document is the path of its file within the folder, with whitespace and ``%`` percent-encoded. Files and
    folders whose names begin with a dot are omitted. Pictures are not decoded. ``queries`` is an optional file of
    queries as JSON lines, ``{"id": ..., "text": ...}``, and ``qrels`` one of judgments in any supported format.
    """

    def __init__(self, folder: str, *, queries: str = "", qrels: str = "", relevant: int = 1) -> None:
        self._folder = require_path(folder, "a folder of pictures", folder=True).resolve()
        files = CollectionFiles(
            queries=optional_path(queries, "a file of queries"), qrels=optional_path(qrels, "a file of judgments")
        )
        super().__init__(name_of_path(self._folder), files, relevant=relevant)

    @cached_property
    def fingerprint(self) -> str:
        whole = hashlib.sha256(f"Pictures {self._folder}".encode("utf-8", "surrogatepass"))
        for doc in self.docs():
            whole.update(f"{doc.id}\0{picture_hash(doc.image)}\n".encode("utf-8", "surrogatepass"))
        return whole.hexdigest()

    def docs(self) -> Iterator[Document]:
        pictures = sorted(path for path in self._folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        inner = [(path.relative_to(self._folder), path) for path in pictures]
        shown = [(own, path) for own, path in inner if not any(part.startswith(".") for part in own.parts)]
        if not shown:
            raise DataError(
                f"{self._folder} contains no pictures", expected=f"files that end in {', '.join(sorted(ENDINGS))}"
            )

        def escape(match: re.Match[str]) -> str:
            return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8"))

        return (Document(id=_NOT_IN_IDS.sub(escape, own.as_posix()), image=str(path)) for own, path in shown)
