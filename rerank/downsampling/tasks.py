"""Reduction of the number of tasks: tasks are removed one by one while the conclusions from all tasks are retained.

``correlation`` removes the task that is predicted best from the other tasks, by linear regression over models, as in
MMTEB; ``significance`` the task whose removal changes the significant differences least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from rerank.adjudication.conclusions import SignificanceVerdicts
from rerank.downsampling.conclusions import (
    Goal,
    ReducedBenchmark,
    ReductionStep,
    SignificanceCriterion,
    compare,
    count_pairs,
    pairs_by_outcome,
    verdicts_of,
)
from rerank.downsampling.score_table import ScoreTable
from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation.significance.base import Floats

#: Ridge penalty, needed because benchmarks have more tasks than models.
RIDGE = 1.0
#: Smallest number of models with which the scores of each model can be predicted from the other models.
_LEAST_MODELS = 3
Order = Literal["correlation", "significance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPredictability:
    """Measures of how well the scores on one task can be predicted; None if all models have equal scores."""

    spearman: float | None  #: Rank correlation between predicted and actual scores.
    #: 1 - e / b, where e is the sum of squared prediction errors, and b is the sum of squared errors when each model's
    #: score is predicted by the mean of the other models.
    r2: float | None

    @property
    def key(self) -> tuple[float, float]:
        """Sort key: tasks with a larger key are more redundant. The key is largest if all models have equal scores."""
        return (np.inf, 0.0) if self.spearman is None or self.r2 is None else (self.spearman, self.r2)


def predict_omitted(scores: Floats, *, ridge: float = RIDGE) -> list[TaskPredictability]:
    """Return how well the scores on each task are predicted by those on the others, from (tasks, models) scores."""
    standard = standardise(scores)
    kernel = standard.T @ standard  # (models, models); to remove a task, subtract the outer product of its row
    return [
        _measure_predictability(scores[index], predict_left_out(kernel - np.outer(row, row), scores[index], ridge))
        for index, row in enumerate(standard)
    ]


def standardise(scores: Floats) -> Floats:
    """Scale each task's (tasks, models) scores to mean 0 and standard deviation 1 over models; 0 if all are equal."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = scores.std(axis=1, keepdims=True)
    flat = deviation <= 1e-12
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))


def predict_left_out(kernel: Floats, targets: Floats, ridge: float) -> Floats:
    """Predict each model's score by ridge regression fitted to the other models, with an unpenalised intercept.

    ``kernel`` (models, models) has the inner products of the centred predictors, ``targets`` (models,) the values y.
    With the smoother matrix H of the regression fitted to all, the leave-one-out prediction is exactly y - (y - Hy) /
    (1 - diag H).
    """
    models = len(targets)
    # H = K (K + ridge I)^-1 + 1/n; the second term is the unpenalised intercept
    smoother = kernel @ np.linalg.inv(kernel + ridge * np.eye(models)) + 1 / models
    error = (targets - smoother @ targets) / np.maximum(1 - np.diag(smoother), 1e-12)
    return np.asarray(targets - error)


def _measure_predictability(actual: Floats, predicted: Floats) -> TaskPredictability:
    """Compare the predicted with the actual scores of the models on one task. Both arrays have shape (models,)."""
    from scipy.stats import rankdata

    models = len(actual)
    if np.ptp(actual) <= 1e-12:
        return TaskPredictability(spearman=None, r2=None)
    # the baseline predicts the mean score of the other models
    naive = (actual.sum() - actual) / (models - 1)
    r2 = 1 - float(((actual - predicted) ** 2).sum() / ((actual - naive) ** 2).sum())
    ranks = rankdata(np.round([actual, predicted], 12), axis=1)
    flat = np.ptp(ranks[1]) == 0
    return TaskPredictability(spearman=0.0 if flat else float(np.atleast_2d(np.corrcoef(ranks))[0, 1]), r2=r2)


@dataclass(frozen=True, kw_only=True)
class TaskReductionDesign:
    """Options for reducing the number of tasks of a benchmark."""

    goal: Goal = field(default_factory=Goal)
    order: Order = "correlation"  #: Order in which tasks are removed.
    unit: Literal["task", "query"] = "task"  #: Whether the rows that are averaged and tested are tasks or queries.
    criterion: SignificanceCriterion = field(default_factory=SignificanceCriterion)
    least: int = 2  #: Smallest number of remaining tasks.
    always: tuple[str, ...] = ()  #: Tasks that are never removed, such as the only task in a language.
    #: Fraction of the models that are held out. They do not influence the choice; the choice is tested on them.
    hold_out: float = 0.0
    seed: int = 0  #: Seed for the random choice of the held-out models.
    ridge: float = RIDGE  #: Weight of the penalty in the regression that predicts tasks.

    def __post_init__(self) -> None:
        if self.least < 1 or self.ridge <= 0 or not 0 <= self.hold_out < 1:
            raise UsageError(
                f"least is {self.least}, ridge is {self.ridge} and hold_out is {self.hold_out}",
                expected="least of 1 or more, ridge above 0, hold_out of 0 or more and below 1",
            )


def choose_fewest_tasks(table: ScoreTable, design: TaskReductionDesign) -> ReducedBenchmark:
    """Remove tasks one by one as long as the reduced benchmark meets the goal.

    Raises:
        UsageError: There are too few models, or ``unit`` is ``query`` and per-query scores are unknown.
        UnknownNameError: A task that must remain does not exist.
    """
    for name in design.always:
        if name not in table.tasks:
            raise UnknownNameError("task", name, table.tasks)
    total = len(table.models)
    held_count = round(design.hold_out * total)
    order = np.random.default_rng(design.seed).permutation(total).tolist()
    choosing, held_out = sorted(order[held_count:]), sorted(order[:held_count])
    if len(choosing) < _LEAST_MODELS or len(held_out) == 1:
        raise UsageError(
            f"{len(choosing)} models are used to choose tasks, and {len(held_out)} are held out",
            expected=f"at least {_LEAST_MODELS} models to choose tasks, and none or at least 2 held out",
            remedy="Use scores of more models, or hold out another fraction",
        )
    search, remaining = _Search(table, choosing, design), tuple(table.tasks)
    figures = search.figures(remaining)
    steps = [ReductionStep(size=len(remaining), label="", figures=figures, met=True, more={"predicted": None})]
    task_sets = [remaining]
    while len(remaining) > design.least and (removal := search.drop(remaining)):
        step, remaining = removal
        steps.append(step)
        task_sets.append(remaining)
    if held_out:
        check = _Search(table, held_out, design)
        for index, tasks in enumerate(task_sets):
            figures = check.figures(tasks)
            on_held_out = {name: figures[name] for name in ("tau", "spearman", "recall", "precision")}
            steps[index] = replace(steps[index], more={**steps[index].more, "held_out": on_held_out})
    gold, notes = search.gold, list(table.notes)
    if table.left_out:
        notes.append(
            f"{len(table.left_out)} models lack scores and are excluded (at most 5 shown): "
            f"{', '.join(table.left_out[:5])}"
        )
    if not held_out:
        notes.append(
            "The values are for the models used to choose tasks; other models may differ more. Use hold_out to check."
        )
    if design.unit == "task" and len(gold.values) < 10:
        notes.append(
            f"The tests have only {len(gold.values)} tasks as samples, so only large differences can be significant."
        )
    if design.unit == "query":
        notes.append("Means and tests are over all queries together, so tasks are weighted by their number of queries.")
    if table.left_out or len(table.models) < len(table.tasks):
        notes.append(
            f"Only {len(table.models)} models are used to predict {len(table.tasks)} tasks: the order is imprecise."
        )
    return ReducedBenchmark(
        kind="tasks",
        whole={**count_pairs(gold), "tasks": len(table.tasks)},
        steps=tuple(steps),
        chosen=steps[-1],
        kept=remaining,
        pairs=pairs_by_outcome(gold, search.verdicts(remaining)),
        notes=tuple(notes),
    )


class _Search:
    """Search for tasks to remove, with the scores of some models: those that choose tasks, or those held out."""

    def __init__(self, table: ScoreTable, models: Sequence[int], design: TaskReductionDesign) -> None:
        self._table, self._models, self._design = table, list(models), design
        self._names = [table.models[index] for index in models]
        self.gold = self.verdicts(tuple(table.tasks))

    def verdicts(self, tasks: Sequence[str]) -> SignificanceVerdicts:
        values = self._table.rows(tasks, unit=self._design.unit)[:, self._models]
        return verdicts_of(values, self._names, self._design.criterion)

    def figures(self, tasks: Sequence[str]) -> dict[str, Any]:
        return compare(self.gold, self.verdicts(tasks))

    def drop(self, remaining: tuple[str, ...]) -> tuple[ReductionStep, tuple[str, ...]] | None:
        """Return the step that removes the next task, and the remaining tasks; None if no removal meets the goal."""
        rows = self._table.rows(remaining, unit="task")[:, self._models]
        predictability = predict_omitted(rows, ridge=self._design.ridge)
        best: tuple[tuple[float, ...], ReductionStep, tuple[str, ...]] | None = None
        for index in sorted(range(len(remaining)), key=lambda index: predictability[index].key, reverse=True):
            rest = remaining[:index] + remaining[index + 1 :]
            if remaining[index] in self._design.always or not self._design.goal.is_met(figures := self.figures(rest)):
                continue
            more = {"predicted": predictability[index].spearman}
            step = ReductionStep(size=len(rest), label=remaining[index], figures=figures, met=True, more=more)
            # candidates are sorted by predictability, so take the first that meets the goal
            if self._design.order == "correlation":
                return step, rest
            # larger if conclusions are retained better: F1 of significant pairs, tau, then Spearman
            key = tuple(1.0 if figures[name] is None else figures[name] for name in ("f1", "tau", "spearman"))
            if best is None or key > best[0]:
                best = key, step, rest
        return best and best[1:]
