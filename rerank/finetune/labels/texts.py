"""Ids -> texts and back: labels with the documents of their collection, and lists written as a collection of their own.

Knows lists and collections, not who labelled them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rerank.collections import Collection, SupportsLookup
from rerank.errors import DataError, StorageError, UsageError, shorten
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.training_list import TrainingList
from rerank.io.text_files import replace_text
from rerank.types import Document, Query

#: Lists whose documents are looked up together.
_TOGETHER = 1000
DOCS, QUERIES, LABELS, MARK = "docs.jsonl", "queries.jsonl", "labels.jsonl", "label.json"


def with_texts(labels: Iterable[LabelList], collection: Collection) -> Iterator[TrainingList]:
    """Labels with the texts of their queries and documents.

    A collection that finds documents by id is asked for some lists at a time; any other one is read once, for all.
    A query's text is the label's own where it has one.

    Raises:
        DataError: The collection lacks a document or a query; the message names the place of the list.
    """
    known = {query.id: query.text for query in collection.queries()}
    given = iter(labels)
    while batch := list(islice(given, _TOGETHER) if isinstance(collection, SupportsLookup) else given):
        docs = _documents(batch, collection)
        for label in batch:
            yield _joined(label, docs, known)


def query_texts(labels: Sequence[LabelList], collection: Collection | None = None) -> dict[str, str]:
    """Query id -> text, for the queries of some labels; what is known nowhere is left out.

    Of a query with several lists the first that has a text counts, and the collection where none has.
    """
    known = {query.id: query.text for query in collection.queries()} if collection is not None else {}
    found: dict[str, str] = {}
    for label in labels:
        if label.query.strip():
            found.setdefault(label.qid, label.query)
    return {label.qid: text for label in labels if (text := found.get(label.qid) or known.get(label.qid, "")).strip()}


def lengths(labels: Iterable[LabelList], collection: Collection) -> dict[str, int]:
    """Document -> words of title and body, for the documents of some labels; what the collection lacks is left out."""
    docs = _documents(list(labels), collection)
    return {name: len(doc.full_text.split()) for name, doc in docs.items()}


def as_label(one: TrainingList) -> LabelList:
    """A training list by its ids."""
    return LabelList(
        qid=one.query.id,
        initial=tuple(doc.id for doc in one.docs),
        final=tuple(one.docs[at].id for at in one.order),
        query=one.query.text,
        scores=one.scores,
        teacher=one.teacher,
    )


@dataclass(kw_only=True)
class Written:
    """How much went into a folder."""

    lists: int = 0
    queries: int = 0
    documents: int = 0


def write_folder(lists: Iterable[TrainingList], folder: Path) -> Written:
    """Write lists with their texts: docs.jsonl and queries.jsonl, which ``jsonl:FOLDER`` opens, and labels.jsonl.

    Raises:
        DataError: Two documents or queries have one id and different texts.
        UsageError: The folder holds something else.
        StorageError: The folder cannot be made or written.
    """
    make_folder(folder)
    count = Written()
    with ExitStack() as stack:
        docs, queries = (
            _Once(stack.enter_context(replace_text(folder / name)), kind)
            for name, kind in ((DOCS, "document"), (QUERIES, "query"))
        )
        labels = stack.enter_context(replace_text(folder / LABELS))
        for one in lists:
            for doc in one.docs:
                docs.add(doc.id, doc_row(doc))
            queries.add(one.query.id, {"id": one.query.id, "text": one.query.text})
            labels.write(json.dumps(as_label(one).to_row(), ensure_ascii=False) + "\n")
            count.lists += 1
    count.queries, count.documents = len(queries.seen), len(docs.seen)
    return count


def make_folder(folder: Path) -> None:
    """Make a folder to write into; one that was made here before is written anew, any other one is left alone.

    Raises:
        UsageError: The folder is there and holds something else.
        StorageError: It cannot be made.
    """
    try:
        if folder.is_dir() and not (folder / MARK).is_file() and (strange := sorted(folder.iterdir())):
            raise UsageError(
                f"{str(folder)!r} is there and was not made by `rerank label` (it holds {strange[0].name!r})",
                remedy="Name another --output",
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"Cannot make the folder {str(folder)!r}: {error.strerror}") from error
    write_mark(folder, {})


def write_mark(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what a folder came from into it, so that it is known as ours."""
    with replace_text(folder / MARK) as file:
        file.write(json.dumps({"format": "listrank lists", **about}, ensure_ascii=False, indent=2) + "\n")


def doc_row(doc: Document) -> dict[str, str]:
    """The object that a collection of JSON lines holds for a document."""
    return {"id": doc.id, "text": doc.text, **({"title": doc.title} if doc.title else {})}


@dataclass
class _Once:
    """Writes each id once and refuses another text for it. Holds hashes, not texts."""

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
                f"The {self.kind} {shorten(name)} has two texts in these lists",
                expected="one text for each id",
                remedy="Give what differs ids of its own",
            )


def _documents(labels: Sequence[LabelList], collection: Collection) -> Mapping[str, Document]:
    wanted = {one for label in labels for one in label.initial}
    if isinstance(collection, SupportsLookup):
        return collection.lookup(wanted)
    found: dict[str, Document] = {}
    for doc in collection.docs():
        if doc.id in wanted:
            found[doc.id] = doc
            if len(found) == len(wanted):
                break
    return found


def _joined(label: LabelList, docs: Mapping[str, Document], known: Mapping[str, str]) -> TrainingList:
    if missing := [one for one in label.initial if one not in docs]:
        raise label.fault(
            f"has {len(missing)} documents that are not in the collection, first {shorten(missing[0])}",
            remedy="Check that the labels belong to this collection",
        )
    text = label.query or known.get(label.qid, "")
    if not text.strip():
        raise label.fault(
            "has no text for its query, and neither has the collection",
            expected="a key 'query' beside the ids, or a collection with this query",
        )
    return TrainingList(
        query=Query(id=label.qid, text=text),
        docs=tuple(docs[one] for one in label.initial),
        order=label.order,
        scores=label.scores,
        teacher=label.teacher,
    )
