"""Reduction of the number of tasks: tasks are removed one by one while the conclusions from all tasks are retained.

Tasks are removed in one of two orders. ``correlation`` removes the task that is predicted best from the other tasks, by
linear regression over models, as in MMTEB. ``significance`` removes the task whose removal changes the significant
differences least.

Prediction of models' scores on one task from their scores on the other tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rerank.adjudication.conclusions import SignificanceVerdicts
from rerank.downsampling.goal_metrics import (
    Goal,
    SignificanceCriterion,
    benchmark_pairs_by_outcome,
    benchmark_verdicts,
    compare_benchmarks,
    count_benchmark_pairs,
)
from rerank.downsampling.reduced_benchmark import ReducedBenchmark, ReductionStep
from rerank.downsampling.score_table import ScoreTable
from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation.significance.base import Floats

#: Ridge penalty, needed because benchmarks have more tasks than models.
RIDGE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPredictability:
    """Measures of how well the scores on one task can be predicted.

    Attributes:
        spearman: Rank correlation between predicted and actual scores; None if all models have equal scores.
        r2: 1 - e / b; None if all models have equal scores. e is the sum of squared prediction errors, and b is the sum
            of squared errors when each model's score is predicted by the mean of the other models.
    """

    spearman: float | None
    r2: float | None

    @property
    def key(self) -> tuple[float, float]:
        """Sort key: tasks with a larger key are more redundant. The key is largest if all models have equal scores."""
        return (np.inf, 0.0) if self.spearman is None or self.r2 is None else (self.spearman, self.r2)


def predict_omitted_tasks(scores: Floats, *, ridge: float = RIDGE) -> list[TaskPredictability]:
    """Predict the scores on each task from the scores on the other tasks.

    Args:
        scores: (tasks, models) scores for at least two tasks and three models.
        ridge: Weight of the penalty on squared coefficients.

    Returns:
        The predictability of each task, in the order of the rows.
    """
    standard = standardise_scores_for_task_reduction(scores)
    kernel = standard.T @ standard  # (models, models); to remove a task, subtract the outer product of its row
    return [
        _measure_predictability(scores[index], predict_left_out_task(kernel - np.outer(row, row), scores[index], ridge))
        for index, row in enumerate(standard)
    ]


def standardise_scores_for_task_reduction(scores: Floats) -> Floats:
    """Scale each task's scores to mean 0 and standard deviation 1 over models.

    If all scores on a task are equal, they become 0. Both ``scores`` and the result have shape (tasks, models).
    """
    centred = scores - scores.mean(axis=1, keepdims=True)
    deviation = scores.std(axis=1, keepdims=True)
    flat = deviation <= 1e-12
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, deviation))


def predict_left_out_task(kernel: Floats, targets: Floats, ridge: float) -> Floats:
    """Predict each model's score by ridge regression fitted to the other models, with an unpenalised intercept.

    If H is the smoother matrix of the regression fitted to all models, the leave-one-out prediction is exactly
    y - (y - Hy) / (1 - diag H).

    Args:
        kernel: (models, models) inner products of the centred predictors.
        targets: (models,) the values y to predict.
        ridge: Weight of the penalty.
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


Order = Literal["correlation", "significance"]
#: Smallest number of models with which the scores of each model can be predicted from the other models.
_LEAST_MODELS = 3


@dataclass(frozen=True, kw_only=True)
class TaskReductionDesign:
    """Options for reducing the number of tasks of a benchmark.

    Attributes:
        goal: The goal.
        order: Order in which tasks are removed.
        unit: Whether the rows that are averaged and tested are tasks or queries.
        criterion: The significance test.
        least: Smallest number of remaining tasks.
        always: Tasks that are never removed, such as the only task in a language.
        hold_out: Fraction of the models that are held out. They do not influence the choice; the choice is tested on
            them.
        seed: Seed for the random choice of the held-out models.
        ridge: Weight of the penalty in the regression that predicts tasks.
    """

    goal: Goal = field(default_factory=Goal)
    order: Order = "correlation"
    unit: Literal["task", "query"] = "task"
    criterion: SignificanceCriterion = field(default_factory=SignificanceCriterion)
    least: int = 2
    always: tuple[str, ...] = ()
    hold_out: float = 0.0
    seed: int = 0
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        """Check that the numbers are in range."""
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
    choosing, held_out = _split_held_out_models(table, design)
    search = _Search(table, choosing, design)
    steps, remaining = [search.first()], tuple(table.tasks)
    task_sets = [remaining]
    while len(remaining) > design.least and (removal := search.drop(remaining)):
        step, remaining = removal
        steps.append(step)
        task_sets.append(remaining)
    check = _Search(table, held_out, design) if held_out else None
    if check:
        steps = [
            _step_with_held_out_models(step, check.figures(tasks)) for step, tasks in zip(steps, task_sets, strict=True)
        ]
    gold = search.gold
    return ReducedBenchmark(
        kind="tasks",
        whole={**count_benchmark_pairs(gold), "tasks": len(table.tasks)},
        steps=tuple(steps),
        chosen=steps[-1],
        kept=remaining,
        pairs=benchmark_pairs_by_outcome(gold, search.verdicts(remaining)),
        notes=tuple(_benchmark_task_reduction_notes(table, design, gold, held_out)),
    )


class _Search:
    """Search for tasks to remove, with the scores of some models: those that choose tasks, or those held out."""

    def __init__(self, table: ScoreTable, models: Sequence[int], design: TaskReductionDesign) -> None:
        self._table, self._models, self._design = table, list(models), design
        self._names = [table.models[index] for index in models]
        self.gold = self.verdicts(tuple(table.tasks))

    def verdicts(self, tasks: Sequence[str]) -> SignificanceVerdicts:
        """Return the significance decisions for all pairs of models, based on some tasks."""
        values = self._table.rows(tasks, unit=self._design.unit)[:, self._models]
        return benchmark_verdicts(values, self._names, self._design.criterion)

    def figures(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Return the metrics that compare conclusions from some tasks with conclusions from all tasks."""
        return compare_benchmarks(self.gold, self.verdicts(tasks))

    def first(self) -> ReductionStep:
        """Return the first step of the search, in which no task has been removed."""
        figures = self.figures(tuple(self._table.tasks))
        return ReductionStep(size=len(self._table.tasks), label="", figures=figures, met=True, more={"predicted": None})

    def drop(self, remaining: tuple[str, ...]) -> tuple[ReductionStep, tuple[str, ...]] | None:
        """Return the step that removes the next task, and the remaining tasks; None if no removal meets the goal."""
        candidates: list[tuple[tuple[float, ...], ReductionStep, tuple[str, ...]]] = []
        for index, predictability in self._candidates(remaining):
            rest = remaining[:index] + remaining[index + 1 :]
            figures = self.figures(rest)
            if not self._design.goal.is_met(figures):
                continue
            step = ReductionStep(
                size=len(rest),
                label=remaining[index],
                figures=figures,
                met=True,
                more={"predicted": predictability.spearman},
            )
            # candidates are sorted by predictability, so take the first that meets the goal
            if self._design.order == "correlation":
                return step, rest
            candidates.append((_sort_key_of_retained_findings(figures), step, rest))
        if not candidates:
            return None
        _, step, rest = max(candidates, key=lambda candidate: candidate[0])
        return step, rest

    def _candidates(self, remaining: tuple[str, ...]) -> Iterator[tuple[int, TaskPredictability]]:
        """Return index and predictability of each remaining task that may be removed, best predicted task first."""
        rows = self._table.rows(remaining, unit="task")[:, self._models]
        predictability = predict_omitted_tasks(rows, ridge=self._design.ridge)
        order = sorted(range(len(remaining)), key=lambda index: predictability[index].key, reverse=True)
        return ((index, predictability[index]) for index in order if remaining[index] not in self._design.always)


def _sort_key_of_retained_findings(figures: dict[str, Any]) -> tuple[float, ...]:
    """Return a sort key, larger if conclusions are retained better: F1 of significant pairs, tau, then Spearman."""
    return tuple(1.0 if figures[name] is None else figures[name] for name in ("f1", "tau", "spearman"))


def _step_with_held_out_models(step: ReductionStep, figures: dict[str, Any]) -> ReductionStep:
    """Add the metrics on held-out models to a step."""
    more = {**step.more, "held_out": {name: figures[name] for name in ("tau", "spearman", "recall", "precision")}}
    return ReductionStep(size=step.size, label=step.label, figures=step.figures, met=step.met, more=more)


def _split_held_out_models(table: ScoreTable, design: TaskReductionDesign) -> tuple[list[int], list[int]]:
    """Choose held-out models at random. Return the indices of the models that choose tasks, and of those held out."""
    total = len(table.models)
    held_count = round(design.hold_out * total)
    # random split of the models
    order = np.random.default_rng(design.seed).permutation(total).tolist()
    choosing, held_out = sorted(order[held_count:]), sorted(order[:held_count])
    if len(choosing) < _LEAST_MODELS or len(held_out) == 1:
        raise UsageError(
            f"{len(choosing)} models are used to choose tasks, and {len(held_out)} are held out",
            expected=f"at least {_LEAST_MODELS} models to choose tasks, and none or at least 2 held out",
            remedy="Use scores of more models, or hold out another fraction",
        )
    return choosing, held_out


def _benchmark_task_reduction_notes(
    table: ScoreTable, design: TaskReductionDesign, whole: SignificanceVerdicts, unseen: Sequence[int]
) -> Iterator[str]:
    yield from table.notes
    if table.left_out:
        yield (
            f"{len(table.left_out)} models lack scores and are excluded (at most 5 shown): "
            f"{', '.join(table.left_out[:5])}"
        )
    if not unseen:
        yield "The values are for the models used to choose tasks; other models may differ more. Use hold_out to check."
    if design.unit == "task" and len(whole.values) < 10:
        yield f"The tests have only {len(whole.values)} tasks as samples, so only large differences can be significant."
    if design.unit == "query":
        yield "Means and tests are over all queries together, so tasks are weighted by their number of queries."
    if table.left_out or len(table.models) < len(table.tasks):
        yield f"Only {len(table.models)} models are used to predict {len(table.tasks)} tasks: the order is imprecise."
