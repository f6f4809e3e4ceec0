"""Fewer tasks: dropped one by one, as long as what was concluded from all of them stands.

Two orders of dropping. ``correlation`` drops what the other tasks predict best (as MMTEB does, with linear regression
over models); ``significance`` drops what costs the fewest significant differences between systems.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rerank.adjudication.verdicts import Verdicts
from rerank.downsampling.goals import Goal, Paired, compared, counted, judged, pairs_by_fate
from rerank.downsampling.predicting import RIDGE, Predicted, predicted
from rerank.downsampling.results import Choice, Step
from rerank.downsampling.tables import Table
from rerank.errors import UnknownNameError, UsageError

Order = Literal["correlation", "significance"]
#: Models that are needed to predict one from the others.
_LEAST_MODELS = 3


@dataclass(frozen=True, kw_only=True)
class Design:
    """How tasks are chosen.

    Attributes:
        goal: What must be kept.
        order: What is dropped first.
        unit: Rows that are averaged and tested: a row a task, or a row a query.
        paired: How differences are tested.
        least: Tasks that stay at least.
        always: Tasks that are never dropped, such as the only one of a language.
        hold_out: Share of the models that have no say in the choice; it is checked on them.
        seed: Of drawing these.
        ridge: Weight of the penalty when tasks are predicted.
    """

    goal: Goal = field(default_factory=Goal)
    order: Order = "correlation"
    unit: Literal["task", "query"] = "task"
    paired: Paired = field(default_factory=Paired)
    least: int = 2
    always: tuple[str, ...] = ()
    hold_out: float = 0.0
    seed: int = 0
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.least < 1 or self.ridge <= 0 or not 0 <= self.hold_out < 1:
            raise UsageError(
                f"least={self.least}, ridge={self.ridge}, hold_out={self.hold_out}",
                expected="least from 1, ridge above 0, hold_out from 0 and below 1",
            )


def choose_tasks(table: Table, design: Design) -> Choice:
    """Drop tasks as long as the goal is met.

    Raises:
        UsageError: Too few models, or queries are to be tested and not known.
        UnknownNameError: A task that must stay and is not there.
    """
    for name in design.always:
        if name not in table.tasks:
            raise UnknownNameError("task", name, table.tasks)
    seen, unseen = _divided(table, design)
    searched = _Search(table, seen, design)
    steps, left = [searched.first()], tuple(table.tasks)
    sets = [left]
    while len(left) > design.least and (found := searched.drop(left)):
        step, left = found
        steps.append(step)
        sets.append(left)
    checked = _Search(table, unseen, design) if unseen else None
    if checked:
        steps = [_beside(step, checked.figures(kept)) for step, kept in zip(steps, sets, strict=True)]
    whole = searched.gold
    return Choice(
        kind="tasks",
        whole={**counted(whole), "tasks": len(table.tasks)},
        steps=tuple(steps),
        chosen=steps[-1],
        kept=left,
        pairs=pairs_by_fate(whole, searched.verdicts(left)),
        notes=tuple(_notes(table, design, whole, unseen)),
    )


class _Search:
    """Some models of a table, and what any set of tasks says of them."""

    def __init__(self, table: Table, models: Sequence[int], design: Design) -> None:
        self._table, self._models, self._design = table, list(models), design
        self._names = [table.models[at] for at in models]
        self.gold = self.verdicts(tuple(table.tasks))

    def verdicts(self, tasks: Sequence[str]) -> Verdicts:
        values = self._table.rows(tasks, unit=self._design.unit)[:, self._models]
        return judged(values, self._names, self._design.paired)

    def figures(self, tasks: Sequence[str]) -> dict[str, Any]:
        return compared(self.gold, self.verdicts(tasks))

    def first(self) -> Step:
        """All tasks."""
        figures = self.figures(tuple(self._table.tasks))
        return Step(size=len(self._table.tasks), label="", figures=figures, met=True, more={"predicted": None})

    def drop(self, left: tuple[str, ...]) -> tuple[Step, tuple[str, ...]] | None:
        """The best task to drop of those that may go; None if the goal would be missed without any of them."""
        found: list[tuple[tuple[float, ...], Step, tuple[str, ...]]] = []
        for at, known in self._candidates(left):
            rest = left[:at] + left[at + 1 :]
            figures = self.figures(rest)
            if not self._design.goal.met(figures):
                continue
            step = Step(size=len(rest), label=left[at], figures=figures, met=True, more={"predicted": known.spearman})
            if self._design.order == "correlation":
                return step, rest
            found.append((_kept(figures), step, rest))
        if not found:
            return None
        _, step, rest = max(found, key=lambda one: one[0])
        return step, rest

    def _candidates(self, left: tuple[str, ...]) -> Iterator[tuple[int, Predicted]]:
        """Places of the tasks that may go, the best predicted first."""
        rows = self._table.rows(left, unit="task")[:, self._models]
        known = predicted(rows, ridge=self._design.ridge)
        order = sorted(range(len(left)), key=lambda at: known[at].key, reverse=True)
        return ((at, known[at]) for at in order if left[at] not in self._design.always)


def _kept(figures: dict[str, Any]) -> tuple[float, ...]:
    """The more of the whole's findings are kept, and the fewer are new, the larger; then the ranking counts."""
    return tuple(1.0 if figures[name] is None else figures[name] for name in ("f1", "tau", "spearman"))


def _beside(step: Step, figures: dict[str, Any]) -> Step:
    more = {**step.more, "held_out": {name: figures[name] for name in ("tau", "spearman", "recall", "precision")}}
    return Step(size=step.size, label=step.label, figures=step.figures, met=step.met, more=more)


def _divided(table: Table, design: Design) -> tuple[list[int], list[int]]:
    """Places of the models that choose, and of those that the choice is checked on."""
    many = len(table.models)
    aside = round(design.hold_out * many)
    order = np.random.default_rng(design.seed).permutation(many).tolist()
    seen, unseen = sorted(order[aside:]), sorted(order[:aside])
    if len(seen) < _LEAST_MODELS or len(unseen) == 1:
        raise UsageError(
            f"{len(seen)} models to choose by and {len(unseen)} held out",
            expected=f"at least {_LEAST_MODELS} and, where any are held out, 2",
            remedy="Take scores of more models, or hold out another share",
        )
    return seen, unseen


def _notes(table: Table, design: Design, whole: Verdicts, unseen: Sequence[int]) -> Iterator[str]:
    yield from table.notes
    if table.left_out:
        yield f"{len(table.left_out)} models lack scores and are left out: {', '.join(table.left_out[:5])}"
    if not unseen:
        yield "The models that chose are those that the figures are of: others may fare worse. See hold_out."
    if design.unit == "task" and len(whole.values) < 10:
        yield f"The tests are over {len(whole.values)} tasks: only large differences can be found, now or with fewer."
    if design.unit == "query":
        yield "Means and tests are over all queries together, so a task counts by its number of queries."
    if table.left_out or len(table.models) < len(table.tasks):
        yield f"{len(table.tasks)} tasks are predicted from {len(table.models)} models: the order of dropping is rough."
