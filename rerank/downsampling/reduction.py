"""Reduction of a benchmark to fewer queries, a smaller corpus or fewer tasks that lead to the same conclusions.

The metrics are the same as for cheaper judgments (`rerank.adjudication`). The full benchmark takes the role of the gold
judgments, and the reduced benchmark the role of the cheap judgments.

A corpus is reduced to the relevant documents and hard negatives, which are the first documents of some runs. The pool
of a query consists of its relevant documents and the first documents of the runs. The reduced corpus is the union of
the pools of all queries. To evaluate a system on the reduced corpus, documents outside it are removed from the system's
rankings. This gives the exact ranking that the system would return if its document scores are independent of other
documents (dense and cross-encoder models). It is an approximation for BM25, whose term weights would change.

Tasks are removed one by one while the conclusions from all tasks are retained: ``correlation`` removes the task that is
predicted best from the other tasks, by linear regression over models, as in MMTEB; ``significance`` the task whose
removal changes the significant differences least.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, takewhile
from typing import Any, Literal

import numpy as np

from rerank.adjudication.conclusions import NAMES, Procedure, SignificanceVerdicts, comparison_row
from rerank.adjudication.pool_measures import score_matrices
from rerank.adjudication.pools import pool_runs
from rerank.downsampling.score_table import ScoreTable
from rerank.errors import UnknownNameError, UsageError, ensure
from rerank.evaluation import ScoreMatrix, parse_measures
from rerank.evaluation.pairwise_decisions import list_caveats
from rerank.evaluation.significance.base import Floats
from rerank.io.reports import Grid, Report, format_cell, make_grid
from rerank.types import Qrels, Ranking, Run

#: Names of the pair categories of each outcome, for pairs that differ significantly in at least one benchmark.
_OUTCOMES = {
    "kept": ("AA",),
    "lost": ("MA_missed", "MD_missed"),
    "new": ("MA_spurious", "MD_spurious"),
    "reversed": ("AD",),
}
#: Figures in the table of steps, next to those of one kind of benchmark.
_SHOWN = ("tau", "spearman", "AA", "AD", "MA_missed", "MA_spurious", "recall", "precision")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Minimum values, from 0 to 1, that a reduced benchmark must reach. None means that there is no minimum."""

    #: Kendall's tau-b between the systems' means in the reduced and in the full benchmark.
    tau: float | None = 0.9
    #: Fraction of the significant differences in the full benchmark that the reduced one finds, in the same direction.
    recall: float | None = None
    #: Fraction of the significant differences in the reduced benchmark that the full one confirms.
    precision: float | None = None

    @property
    def _minimums(self) -> dict[str, float]:
        values = {"tau": self.tau, "recall": self.recall, "precision": self.precision}
        return {name: value for name, value in values.items() if value is not None}

    def __post_init__(self) -> None:
        for name, value in self._minimums.items():
            ensure(0 <= value <= 1, f"The minimum {name} is {value}", expected="a number from 0 to 1")
        ensure(self._minimums, "The goal has no minimum", expected="a minimum of tau, recall or precision")

    def is_met(self, figures: dict[str, Any]) -> bool:
        """Return whether the metrics of `compare` reach the goal; an undefined recall or precision (0 / 0) does."""
        # tau is undefined for a ranking with only ties; such a ranking does not meet the goal
        return all(
            (figures[name] is None and name != "tau") or (figures[name] or 0.0) >= minimum - 1e-12
            for name, minimum in self._minimums.items()
        )


@dataclass(frozen=True, kw_only=True)
class SignificanceCriterion:
    """The test that decides whether two systems differ significantly."""

    procedure: Procedure = field(default_factory=lambda: Procedure("t", "bh"))  #: The paired test and its correction.
    alpha: float = 0.05  #: Significance level.


def verdicts_of(values: Floats, systems: Sequence[str], criterion: SignificanceCriterion) -> SignificanceVerdicts:
    """Test every pair of systems on scores (tasks or queries, systems). With one row, none is significant."""
    names = tuple(systems)
    if len(values) < 2:
        return SignificanceVerdicts(values, names, (np.zeros(len(names) * (len(names) - 1) // 2, dtype=np.bool_),))
    return SignificanceVerdicts.from_scores(values, names, [criterion.procedure], criterion.alpha)


def count_pairs(whole: SignificanceVerdicts) -> dict[str, int]:
    """Return the numbers of systems, rows (tasks or queries), pairs and significant pairs in the full benchmark."""
    return {
        "systems": len(whole.systems),
        "rows": len(whole.values),
        "pairs": len(whole.differences),
        "significant": int(whole.significant[0].sum()),
    }


def compare(gold: SignificanceVerdicts, cheap: SignificanceVerdicts) -> dict[str, Any]:
    """Compare a reduced benchmark (``cheap``) with the full one (``gold``): pair categories, rates, similarities."""
    (codes,) = cheap.categorise_against(gold)
    return {**comparison_row(codes, cheap.compare_ranking(gold)), "spearman": spearman(gold.means, cheap.means)}


def spearman(first: Floats, second: Floats) -> float | None:
    """Compute Spearman's rank correlation of the systems' means; None if all means in either array are equal."""
    from scipy.stats import rankdata

    # after rounding, means that differ only by rounding errors are tied
    ranks = np.asarray(rankdata(np.round([first, second], 12), axis=1))
    return None if (np.ptp(ranks, axis=1) == 0).any() else round(float(np.atleast_2d(np.corrcoef(ranks))[0, 1]), 12)


def pairs_by_outcome(gold: SignificanceVerdicts, cheap: SignificanceVerdicts) -> dict[str, list[list[str]]]:
    """Return kept, lost, new and reversed pairs as [better, worse] in the full benchmark, or in the reduced if new."""
    (codes,) = cheap.categorise_against(gold)
    pairs: dict[str, list[list[str]]] = {}
    for outcome, categories in _OUTCOMES.items():
        finder, selected = cheap if outcome == "new" else gold, [NAMES.index(category) for category in categories]
        pairs[outcome] = [
            [a, b] if difference >= 0 else [b, a]
            for (a, b), code, difference in zip(combinations(finder.systems, 2), codes, finder.differences, strict=True)
            if code in selected
        ]
    return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class ReductionStep:
    """One size of the reduced benchmark that was tried, and how well it preserves conclusions."""

    size: int  #: Number of remaining tasks, number of queries, or pool depth.
    label: str  #: Name of the removed task, or the size as text.
    figures: Mapping[str, Any]  #: Metrics from `compare`. If there are several draws, the means over draws.
    met: bool  #: Whether the goal is met. If there are several draws, whether it is met in enough of them.
    more: Mapping[str, Any]  #: Additional values for reports, such as the number of documents.

    def to_dict(self) -> dict[str, Any]:
        return {"size": self.size, "label": self.label, "met": self.met, **self.more, **self.figures}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReducedBenchmark(Report):
    """Result of reducing a benchmark: the sizes that were tried, and the chosen size with what it keeps."""

    rows_key = "steps"

    kind: str  #: Part of the benchmark that was reduced: ``tasks``, ``queries`` or ``pool``.
    #: Numbers of systems, rows, pairs and significant pairs in the full benchmark, and values that depend on ``kind``.
    whole: Mapping[str, Any]
    steps: tuple[ReductionStep, ...]  #: The sizes that were tried, largest first.
    chosen: ReductionStep | None  #: None if no step meets the goal.
    kept: tuple[str, ...] = ()  #: Names of the remaining tasks or queries; empty for pools.
    #: The significant differences that are kept, lost, new and reversed, each as [better, worse].
    pairs: Mapping[str, list[list[str]]]
    notes: tuple[str, ...] = ()  #: Caveats for the reader.

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            **self.whole,
            "steps": [step.to_dict() for step in self.steps],
            "chosen": self.chosen.to_dict() if self.chosen else None,
            "kept": list(self.kept),
            "differences": dict(self.pairs),
            "notes": list(self.notes),
        }

    def parts(self) -> Iterator[Grid | str]:
        whole, steps = self.whole, [step.to_dict() for step in self.steps]
        yield (
            f"all: {whole['systems']} systems, {whole['rows']} rows, {whole['significant']} of {whole['pairs']} "
            "pairs differ significantly"
        )
        keys = [*(key for key in ("predicted", "draws_that_meet", "documents") if key in steps[0]), *_SHOWN]
        rows = [[s["size"], s["label"], "yes" if s["met"] else "no", *(s[key] for key in keys)] for s in steps]
        yield make_grid(["size", "change", "met", *(key.replace("_", " ") for key in keys)], rows, digits=3)
        if self.chosen is None:
            yield "no size meets the goal"
        else:
            size = self.chosen.size
            yield f"chosen: {f'k = {size}' if self.kind == 'pool' else f'{size} {self.kind}'}"
            if checked := self.chosen.to_dict().get("held_out"):
                figures = (f"{name} {format_cell(value, 3)}" for name, value in checked.items())
                yield f"on the held-out systems: {', '.join(figures)}"
        if self.kept:
            more = len(self.kept) - 20
            yield ", ".join(self.kept[:20]) + (f" and {more} more" if more > 0 else "")
        yield "significant differences: " + ", ".join(f"{len(pairs)} {fate}" for fate, pairs in self.pairs.items())
        yield from (f"note: {text}" for text in self.notes)


def find_smallest(steps: tuple[ReductionStep, ...]) -> ReductionStep | None:
    """Return the smallest step such that it and all larger ones meet the goal: others may meet it by chance."""
    meeting = list(takewhile(lambda step: step.met, sorted(steps, key=lambda step: -step.size)))
    return meeting[-1] if meeting else None


#: Fraction of the random draws that must meet the goal.
OFTEN = 0.9
#: Number of sizes that are tried by default.
_SIZES = 12


def choose_fewest_queries(
    matrix: ScoreMatrix,
    goal: Goal,
    *,
    criterion: SignificanceCriterion | None = None,
    sizes: Sequence[int] = (),
    seeds: int = 20,
    seed: int = 0,
) -> ReducedBenchmark:
    """Find the smallest number of queries for which nine in ten random draws meet the goal.

    A draw is a random order of the queries. Every sample takes the first queries of a draw, so samples are nested. The
    draws use consecutive seeds from ``seed``. By default, ``sizes`` are twelve numbers from two to all queries, in a
    geometric series, and ``criterion`` is paired t-tests with Benjamini-Hochberg correction. A `UsageError` means that
    a size is out of range, or that there are no draws.
    """
    total = len(matrix.topics)
    series = [round(size) for size in np.geomspace(2, total, _SIZES).tolist()]
    tried = sorted({*(sizes or series), total}, reverse=True)
    if seeds < 1 or tried[-1] < 2 or tried[0] > total:
        raise UsageError(
            f"seeds is {seeds}, and the sizes are {tried}", expected=f"seeds of 1 or more, and sizes from 2 to {total}"
        )
    significance = criterion or SignificanceCriterion()
    gold = verdicts_of(matrix.values, matrix.systems, significance)
    # samples are nested: every size takes the first queries of the same random orders
    orders = [np.random.default_rng(seed + index).permutation(total) for index in range(seeds)]
    steps, first_success = [], {}
    for size in tried:
        samples = [verdicts_of(matrix.values[order[:size]], matrix.systems, significance) for order in orders]
        draws = [compare(gold, sample) for sample in samples]
        met_by_draw = [goal.is_met(figures) for figures in draws]
        first_success[size] = next((order[:size] for order, met in zip(orders, met_by_draw, strict=True) if met), None)
        # Figures are means over the draws in which they are defined.
        defined = {name: [draw[name] for draw in draws if draw[name] is not None] for name in draws[0]}
        figures = {name: sum(values) / len(values) if values else None for name, values in defined.items()}
        share = sum(met_by_draw) / seeds
        worst = {f"worst_{name}": min(defined[name], default=None) for name in ("tau", "recall")}
        more = {"draws_that_meet": share, **worst}
        steps.append(ReductionStep(size=size, label=str(size), figures=figures, met=share >= OFTEN, more=more))
    chosen = find_smallest(tuple(steps))
    selected = first_success[chosen.size] if chosen else None
    indices = [] if selected is None else sorted(selected.tolist())
    verdicts = verdicts_of(matrix.values[indices], matrix.systems, significance) if indices else gold
    test, correction = significance.procedure.significance_test, significance.procedure.correction
    return ReducedBenchmark(
        kind="queries",
        whole=count_pairs(gold),
        steps=tuple(steps),
        chosen=chosen,
        kept=tuple(matrix.topics[index] for index in indices),
        pairs=pairs_by_outcome(gold, verdicts),
        notes=(
            *list_caveats(matrix, test, correction, significance.alpha, noun="queries"),
            "The listed queries are those of the first draw that meets the goal; values are means over all draws.",
        ),
    )


#: Depths that are tried by default.
DEPTHS = (1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 150, 250)


def choose_smallest_pool(
    runs: Sequence[Run],
    qrels: Qrels,
    goal: Goal,
    *,
    makers: Sequence[str] = (),
    measure: str = "nDCG@10",
    depths: Sequence[int] = DEPTHS,
    criterion: SignificanceCriterion | None = None,
) -> ReducedBenchmark:
    """Find the smallest pool depth k at which the conclusions from the reduced corpus meet the goal.

    The first k documents of the runs ``makers``, by default all, form the pools. A binary measure should set its lowest
    relevant grade: ``AP(rel=2)@100``. ``criterion`` is by default paired t-tests with Benjamini-Hochberg correction. A
    `RerankError` means a maker that is no run, an unknown measure, no depths, or a depth below 1.
    """
    names = [run.name for run in runs]
    if unknown := [maker for maker in makers if maker not in names]:
        raise UnknownNameError("run", unknown[0], names)
    chosen_runs = [run for run in runs if not makers or run.name in makers]
    if not depths or min(depths) < 1:
        raise UsageError(f"The depths are {list(depths)}", expected="at least one depth, each 1 or more")
    significance = criterion or SignificanceCriterion()
    (name,) = map(str, parse_measures([measure]))
    whole = score_matrices(qrels, runs, [name])[name]
    gold = verdicts_of(whole.values, whole.systems, significance)
    retrieved = {doc for run in runs for ranking in run.values() for doc in ranking.doc_ids}
    documents = len(retrieved.union(*_relevant(qrels)))
    longest = max(len(ranking) for run in runs for ranking in run.values())  # larger depths change nothing
    steps, verdicts = [], {}
    for depth in sorted({min(depth, longest) for depth in depths}, reverse=True):
        corpus = frozenset().union(*documents_per_query(chosen_runs, qrels, depth).values())  # shared by all queries
        values = score_matrices(qrels, [reduce_run(run, corpus) for run in runs], [name])[name].values
        verdicts[depth] = verdicts_of(values, whole.systems, significance)
        figures = compare(gold, verdicts[depth])
        more = {"documents": len(corpus), "share": len(corpus) / documents}
        met = goal.is_met(figures)
        steps.append(ReductionStep(size=depth, label=f"k={depth}", figures=figures, met=met, more=more))
    chosen = find_smallest(tuple(steps))
    notes = [
        "Documents that a run did not retrieve are unknown: the reference is the rankings that the runs contain.",
        "Scores of other systems can only increase when documents are removed: compare rankings and differences, not "
        "values.",
    ]
    if len(chosen_runs) == len(runs):
        notes.append(
            f"All systems form the pools, so depths beyond the cutoff of {name} change nothing. Choose some of the "
            "systems as makers to see the effect on the others."
        )
    elif chosen_runs:
        notes.append("Some systems are makers: the pools contain the first documents of these systems, not of others.")
    return ReducedBenchmark(
        kind="pool",
        whole=count_pairs(gold) | {"makers": [r.name for r in chosen_runs], "measure": name, "documents": documents},
        steps=tuple(steps),
        chosen=chosen,
        pairs=pairs_by_outcome(gold, verdicts[chosen.size]) if chosen else {},
        notes=tuple(notes),
    )


def documents_per_query(makers: Sequence[Run], qrels: Qrels, depth: int) -> dict[str, frozenset[str]]:
    """Return the pool of each query: the first ``depth`` documents of the runs ``makers``, and all relevant ones."""
    pooled = {topic.id: topic.docs for topic in pool_runs(makers, depth=depth, qrels=qrels, unjudged=True).topics}
    return {query: frozenset(pooled.get(query, ())) | own for query, own in zip(qrels, _relevant(qrels), strict=True)}


def _relevant(qrels: Qrels) -> list[frozenset[str]]:
    return [frozenset(doc for doc, grade in judged.items() if grade >= 1) for judged in qrels.values()]


def reduce_run(run: Run, corpus: frozenset[str]) -> Run:
    """Return the run without the documents outside the reduced corpus."""
    rankings = []
    for ranking in run.values():
        kept = [(doc, score) for doc, score in zip(ranking.docs, ranking.scores, strict=True) if doc.id in corpus]
        rankings.append(Ranking(ranking.query, tuple(doc for doc, _ in kept), tuple(score for _, score in kept)))
    return Run(rankings, name=run.name)


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
