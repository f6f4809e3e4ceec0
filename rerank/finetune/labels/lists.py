"""One labelled list as it is kept: ids alone, in the order in which they were shown and in the label's.

Knows neither files nor texts; with its documents it is a `rerank.finetune.labels.training_list.TrainingList`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rerank.errors import DataError, shorten
from rerank.experiment.robustness import kendall_tau
from rerank.types import Order


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelList:
    """A list of documents and the order that a teacher gave it.

    Attributes:
        qid: The query's id.
        initial: The documents in the order in which they are shown.
        final: The same documents, best first.
        query: The query's text; empty where it has to be looked up.
        scores: The teacher's score of each document, in the order of ``initial``; empty where it gave none.
        teacher: Who made the label.
        where: File and line, for messages.

    Raises:
        DataError: No documents, one twice, or a label that is not about exactly these documents.
    """

    qid: str
    initial: tuple[str, ...]
    final: tuple[str, ...]
    query: str = ""
    scores: tuple[float, ...] = ()
    teacher: str = ""
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check that the label is a permutation of the list."""
        if not self.initial:
            raise self.fault("has no documents", expected="at least one in initial_list")
        for name, ids in (("initial_list", self.initial), ("final_list", self.final)):
            if len(set(ids)) < len(ids):
                twice = next(one for at, one in enumerate(ids) if one in ids[:at])
                raise self.fault(f"has document {shorten(twice)} twice in its {name}", expected="each id once")
        listed = set(self.initial)
        if foreign := [one for one in self.final if one not in listed]:
            raise self.fault(
                f"has {len(foreign)} documents in its final_list that its initial_list lacks, first "
                f"{shorten(foreign[0])}",
                expected="the same documents in another order",
            )
        if len(self.final) < len(self.initial):
            lost = min(listed - set(self.final), key=self.initial.index)
            raise self.fault(
                f"has {len(self.final)} of its {len(self.initial)} documents in its final_list, without "
                f"{shorten(lost)}",
                expected="all of them",
                remedy="Take the others out of initial_list, or label them",
            )
        if self.scores and len(self.scores) != len(self.initial):
            raise self.fault(
                f"has {len(self.scores)} scores for {len(self.initial)} documents", expected="one each, or none"
            )
        if not all(map(math.isfinite, self.scores)):
            raise self.fault("has a score that is no finite number", expected="finite numbers")

    def __len__(self) -> int:
        """How many documents it has."""
        return len(self.initial)

    @property
    def order(self) -> Order:
        """The label as positions in ``initial``, best first.

        >>> LabelList(qid="q", initial=("a", "b", "c"), final=("c", "a", "b")).order
        (2, 0, 1)
        """
        place = {one: at for at, one in enumerate(self.initial)}
        return tuple(place[one] for one in self.final)

    @property
    def tau(self) -> float | None:
        """Kendall's tau of label and list: 1 where the teacher changed nothing; None for a single document."""
        return kendall_tau(self.initial, self.final) if len(self) > 1 else None

    def take(self, positions: Sequence[int]) -> LabelList:
        """The list of some of its documents, shown in another order; the label keeps its order among them.

        Args:
            positions: Places in ``initial``, each once.

        >>> LabelList(qid="q", initial=("a", "b", "c"), final=("c", "a", "b")).take([1, 2]).final
        ('c', 'b')
        """
        shown = tuple(self.initial[at] for at in positions)
        kept = set(shown)
        scores = tuple(self.scores[at] for at in positions) if self.scores else ()
        return replace(self, initial=shown, final=tuple(one for one in self.final if one in kept), scores=scores)

    def to_row(self) -> dict[str, Any]:
        """The object that a label file holds; what is empty is left out."""
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
        """An error about this list, with the place where it stood."""
        where = f"{self.where}: " if self.where else ""
        return DataError(f"{where}the list of query {shorten(self.qid)} {found}", expected=expected, remedy=remedy)
