"""The texts of labelled lists: looked up in a collection, or written together with the lists as a collection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rerank.collections import Collection, SupportsLookup
from rerank.collections.base import find_documents
from rerank.errors import DataError, StorageError, UsageError, error_repr
from rerank.finetune.labels.lists import LabelList, TrainingList
from rerank.io.atomic_folder import fill_folder
from rerank.io.file_systems import check_only_files
from rerank.io.text_files import replace_text_file
from rerank.types import Document, Query

#: Number of lists whose documents are looked up together.
_BATCH = 1000
DOCS, QUERIES, LABELS, MARK = "docs.jsonl", "queries.jsonl", "labels.jsonl", "label.json"


def attach_label_texts(labels: Iterable[LabelList], collection: Collection) -> Iterator[TrainingList]:
    """Yield the labelled lists as training lists, with the texts of queries and documents.

    Documents are looked up in batches if the collection supports it; otherwise the collection is read once. A document
    or query that the collection lacks is a `DataError`, whose message names file and line of the list.
    """
    known = {query.id: query.text for query in collection.queries()}
    remaining = iter(labels)
    while batch := list(islice(remaining, _BATCH) if isinstance(collection, SupportsLookup) else remaining):
        docs = find_documents(collection, {doc_id for label in batch for doc_id in label.initial})
        for label in batch:
            if missing := [doc_id for doc_id in label.initial if doc_id not in docs]:
                raise label.fault(
                    f"has {len(missing)} documents that are not in the collection; the first is "
                    f"{error_repr(missing[0])}",
                    expected="a collection that contains all documents",
                    remedy="Check that the labels belong to this collection",
                )
            text = label.query or known.get(label.qid, "")
            if not text.strip():
                raise label.fault(
                    "has no query text, and the collection does not contain the query",
                    expected="a key 'query' in the label file, or a collection that contains the query",
                )
            yield TrainingList(
                query=Query(id=label.qid, text=text),
                docs=tuple(docs[doc_id] for doc_id in label.initial),
                order=label.order,
                scores=label.scores,
                teacher=label.teacher,
            )


def query_texts(labels: Sequence[LabelList], collection: Collection | None = None) -> dict[str, str]:
    """Return a mapping from the query ids of labels to texts; queries without a known text are omitted.

    The first text among the lists of a query comes before the text in the collection.
    """
    known = {query.id: query.text for query in collection.queries()} if collection is not None else {}
    own: dict[str, str] = {}
    for label in labels:
        if label.query.strip():
            own.setdefault(label.qid, label.query)
    return {label.qid: text for label in labels if (text := own.get(label.qid) or known.get(label.qid, "")).strip()}


def document_lengths(labels: Iterable[LabelList], collection: Collection) -> dict[str, int]:
    """Return a mapping from the ids of the documents in the collection to numbers of words in title and text."""
    docs = find_documents(collection, {doc_id for label in labels for doc_id in label.initial})
    return {name: len(doc.full_text.split()) for name, doc in docs.items()}


def write_folder(lists: Iterable[TrainingList], folder: Path) -> dict[str, int]:
    """Write the lists as labels and as collection ``jsonl:FOLDER``; return the numbers of lists, queries, documents."""
    make_folder(folder)
    count = 0
    try:
        with fill_folder(folder, last=LABELS) as draft, ExitStack() as stack:
            docs, queries = (
                _UniqueRows(stack.enter_context(replace_text_file(draft / name)), kind)
                for name, kind in ((DOCS, "document"), (QUERIES, "query"))
            )
            labels = stack.enter_context(replace_text_file(draft / LABELS))
            for training_list in lists:
                for doc in training_list.docs:
                    docs.add(doc.id, document_row(doc))
                query = training_list.query
                queries.add(query.id, {"id": query.id, "text": query.text})
                labels.write(json.dumps(training_list.to_label().to_row(), ensure_ascii=False) + "\n")
                count += 1
    except OSError as error:
        raise StorageError(f"The folder {str(folder)!r} cannot be written: {error.strerror or error}") from error
    return {"lists": count, "queries": len(queries.seen), "documents": len(docs.seen)}


def make_folder(folder: Path) -> None:
    """Create an output folder, or reuse a folder that an earlier call created."""
    try:
        if folder.is_dir() and not (folder / MARK).is_file() and (files := sorted(folder.iterdir())):
            raise UsageError(
                f"{str(folder)!r} exists and was not written by `rerank label` (it contains {files[0].name!r})",
                expected="a new folder, or a folder written by `rerank label`",
                remedy="Choose another --output",
            )
        folder.mkdir(parents=True, exist_ok=True)
        check_only_files(folder, links=True)
    except OSError as error:
        raise StorageError(f"The folder {str(folder)!r} cannot be created: {error.strerror}") from error
    mark_folder(folder, {})


def mark_folder(folder: Path, description: Mapping[str, Any]) -> None:
    """Write a file that marks the folder as written by `rerank label`, and describes the content of the folder."""
    with replace_text_file(folder / MARK) as file:
        file.write(json.dumps({"format": "listrank lists", **description}, ensure_ascii=False, indent=2) + "\n")


def document_row(doc: Document) -> dict[str, str]:
    """Return a document as the JSON object of a line in a ``jsonl:`` collection."""
    return {"id": doc.id, "text": doc.text, **({"title": doc.title} if doc.title else {})}


@dataclass
class _UniqueRows:
    """Writer of rows that skips repeated ids and rejects different texts for one id; it stores hashes, not texts."""

    stream: TextIO
    kind: str
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, row: Mapping[str, str]) -> None:
        line = json.dumps(row, ensure_ascii=False)
        if name not in self.seen:
            self.seen[name] = hash(line)
            self.stream.write(f"{line}\n")
        elif self.seen[name] != hash(line):
            raise DataError(
                f"The {self.kind} {error_repr(name)} has two different texts in these lists",
                expected="one text per id",
                remedy="Use a different id for each text",
            )
