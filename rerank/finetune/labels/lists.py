"""The two forms of a training list: document ids, as in a label file, and texts, as the model sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rerank.errors import DataError, ensure, error_repr
from rerank.experiment.robustness import kendall_tau
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
