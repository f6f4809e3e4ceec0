"""The two forms of a training list: document ids, as in a label file, and texts, as the model sees them.

Texts are looked up in a collection, or written together with the lists as a collection.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rerank.collections import Collection, SupportsLookup
from rerank.collections.base import find_documents
from rerank.errors import DataError, StorageError, UsageError, ensure, error_repr
from rerank.experiment.robustness import kendall_tau
from rerank.io.atomic_folder import fill_folder
from rerank.io.file_systems import check_only_files
from rerank.io.text_files import replace_text_file
from rerank.types import Document, Order, Query


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelList:
    """Document ids in the order shown to the model, and their ranking by a teacher; with texts, a `TrainingList`."""

    qid: str
    initial: tuple[str, ...]  #: Document ids in the order in which they are shown to the model.
    final: tuple[str, ...]  #: The label: the same ids, best first.
    query: str = ""  #: Query text; empty if it has to be looked up.
    scores: tuple[float, ...] = ()  #: Teacher scores in the order of ``initial``; empty if there are none.
    teacher: str = ""
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.initial:
            raise self.fault("has no documents", expected="at least one in initial_list")
        for name, ids in (("initial_list", self.initial), ("final_list", self.final)):
            if len(set(ids)) < len(ids):
                twice = error_repr(_first_repeated(ids))
                raise self.fault(f"has document {twice} twice in its {name}", expected="each id once")
        listed = set(self.initial)
        if unknown := [doc_id for doc_id in self.final if doc_id not in listed]:
            raise self.fault(
                f"has {len(unknown)} documents in its final_list that are missing in its initial_list; the first is "
                f"{error_repr(unknown[0])}",
                expected="the same documents in another order",
            )
        if len(self.final) < len(self.initial):
            raise self.fault(
                f"has only {len(self.final)} of its {len(self.initial)} documents in its final_list; the first missing "
                f"document is {error_repr(min(listed - set(self.final), key=self.initial.index))}",
                expected="all documents",
                remedy="Remove the missing documents from initial_list, or label them",
            )
        if self.scores and len(self.scores) != len(self.initial):
            raise self.fault(
                f"has {len(self.scores)} scores for {len(self.initial)} documents",
                expected="one score per document, or none",
            )
        if not all(map(math.isfinite, self.scores)):
            raise self.fault("has a score that is not finite", expected="finite numbers")

    def __len__(self) -> int:
        return len(self.initial)

    @property
    def order(self) -> Order:
        """The label as positions in ``initial``, best first.

        >>> LabelList(qid="q", initial=("a", "b", "c"), final=("c", "a", "b")).order
        (2, 0, 1)
        """
        position = {doc_id: index for index, doc_id in enumerate(self.initial)}
        return tuple(position[doc_id] for doc_id in self.final)

    @property
    def tau(self) -> float | None:
        """Kendall's tau between label and shown order: 1 if the orders are equal; None for a single document."""
        return kendall_tau(self.initial, self.final) if len(self) > 1 else None

    def take(self, positions: Sequence[int]) -> LabelList:
        """Return the list restricted to the documents at these positions, in this order; their label order is kept.

        >>> LabelList(qid="q", initial=("a", "b", "c"), final=("c", "a", "b")).take([1, 2]).final
        ('c', 'b')
        """
        shown = tuple(self.initial[position] for position in positions)
        ids = set(shown)
        final = tuple(doc_id for doc_id in self.final if doc_id in ids)
        scores = tuple(self.scores[position] for position in positions) if self.scores else ()
        return replace(self, initial=shown, final=final, scores=scores)

    def to_row(self) -> dict[str, Any]:
        row: dict[str, Any] = {"qid": self.qid}
        if self.query:
            row["query"] = self.query
        row |= {"initial_list": list(self.initial), "final_list": list(self.final)}
        if self.scores:
            row["scores"] = list(self.scores)
        if self.teacher:
            row["teacher"] = self.teacher
        return row

    def fault(self, found: str, *, expected: str = "", remedy: str = "") -> DataError:
        """Return an error that names file, line and query; ``found`` is a predicate, such as ``has no documents``."""
        where = f"{self.where}: " if self.where else ""
        return DataError(f"{where}the list of query {error_repr(self.qid)} {found}", expected=expected, remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingList:
    """A query with the texts of its documents, in the order shown to the model, and their ranking by a teacher."""

    query: Query
    docs: tuple[Document, ...]
    order: Order  #: The label: positions in ``docs``, best first; a permutation.
    scores: tuple[float, ...] = ()  #: Teacher scores in the order of ``docs``; empty if there are none.
    teacher: str = ""

    def __post_init__(self) -> None:
        name = f"The training list of query {error_repr(self.query.id)}"
        ids = [doc.id for doc in self.docs]
        ensure(ids, f"{name} is empty", expected="at least one document", error=DataError)
        if len(set(ids)) < len(ids):
            raise DataError(
                f"{name} contains document {error_repr(_first_repeated(ids))} twice", expected="each document once"
            )
        ensure(
            sorted(self.order) == list(range(len(ids))),
            f"{name} has a label that is not a permutation of its {len(ids)} documents",
            expected="each position once",
            error=DataError,
        )
        ensure(
            len(self.scores) in (0, len(ids)),
            f"{name} has {len(self.scores)} scores for {len(ids)} documents",
            expected="one score per document, or none",
            error=DataError,
        )

    def __len__(self) -> int:
        return len(self.docs)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each document according to the label, from 1, in the order of ``docs``.

        >>> docs = tuple(Document(id=name) for name in "abc")
        >>> TrainingList(query=Query(id="q"), docs=docs, order=(2, 0, 1)).ranks
        (2, 3, 1)
        """
        rank_of = {position: rank for rank, position in enumerate(self.order, 1)}
        return tuple(rank_of[position] for position in range(len(self.docs)))

    def take(self, positions: Sequence[int]) -> TrainingList:
        """Return the list restricted to the documents at these positions, in this order; their label order is kept.

        >>> docs = tuple(Document(id=name) for name in "abcd")
        >>> TrainingList(query=Query(id="q"), docs=docs, order=(3, 0, 2, 1)).take([2, 3]).order
        (1, 0)
        """
        new_position = {old: new for new, old in enumerate(positions)}
        return replace(
            self,
            docs=tuple(self.docs[position] for position in positions),
            order=tuple(new_position[position] for position in self.order if position in new_position),
            scores=tuple(self.scores[position] for position in positions) if self.scores else (),
        )

    def to_label(self) -> LabelList:
        return LabelList(
            qid=self.query.id,
            initial=tuple(doc.id for doc in self.docs),
            final=tuple(self.docs[position].id for position in self.order),
            query=self.query.text,
            scores=self.scores,
            teacher=self.teacher,
        )


def _first_repeated(ids: Sequence[str]) -> str:
    return next(doc_id for position, doc_id in enumerate(ids) if doc_id in ids[:position])


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
