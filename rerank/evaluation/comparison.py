"""Runs against each other on one measure: means with confidence intervals, and every pair tested.

Tests are paired by topic and corrected (Holm) over all pairs of the comparison. Knows no files and prints nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rerank.errors import DataError, UsageError
from rerank.evaluation.measures import parse_measures
from rerank.evaluation.scores import Scores, evaluate_all
from rerank.evaluation.significance import holm, is_constant, mean_interval, paired_t, wilcoxon
from rerank.types import Qrels, Run

#: With fewer topics than this a note says so. Source of the number: Buckley and Voorhees, Evaluating evaluation
#: measure stability, SIGIR 2000, who advise against fewer than 25.
FEW_TOPICS = 25

#: Differences of scores are rounded to so many decimals.
DECIMALS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run of a comparison.

    Attributes:
        run: Its name.
        mean: The mean over all judged queries.
        low: Lower end of the mean's 95 % confidence interval (Student's t over queries).
        high: Upper end.
        missing: How many judged queries it lacks; they count as 0.
    """

    run: str
    mean: float
    low: float
    high: float
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two runs of a comparison.

    Attributes:
        a: Name of the first run.
        b: Name of the second.
        difference: Mean of a less mean of b.
        low: Lower end of the difference's 95 % confidence interval (paired t, for this pair alone).
        high: Upper end.
        wins: Queries on which a is better.
        ties: Queries on which both are equal.
        losses: Queries on which b is better.
        p: Two-sided p-value of the paired t-test; its limit where all differences are equal (`untestable`).
        p_adjusted: The same after Holm's correction over all pairs; 1 where the pair is untestable.
        p_wilcoxon: Two-sided p-value of Wilcoxon's signed-rank test, zero differences dropped.
        p_wilcoxon_adjusted: The same after Holm's correction over all pairs.
        significant: Whether p_adjusted is at most the level of the comparison.
    """

    a: str
    b: str
    difference: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    p: float
    p_adjusted: float
    p_wilcoxon: float
    p_wilcoxon_adjusted: float
    significant: bool

    @property
    def untestable(self) -> bool:
        """Whether all differences are equal and not 0: their spread is unknown, so t says nothing."""
        return self.low == self.high and self.difference != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All runs and all pairs, in the order given.

    Attributes:
        measure: As ir_measures prints it.
        alpha: The level of significance.
        queries: How many judged queries there are, the n of every test.
        runs: One summary a run.
        pairs: One entry for each two runs, the earlier one as ``a``.
        notes: What a reader must know before believing the numbers.
    """

    measure: str
    alpha: float
    queries: int
    runs: tuple[RunSummary, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Tables for people."""
        from rerank.evaluation.tables import comparison_table

        return comparison_table(self)

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank compare --format json`` prints."""
        return {
            "measure": self.measure,
            "alpha": self.alpha,
            "queries": self.queries,
            "runs": [
                {"run": r.run, "queries": self.queries, "missing": r.missing, "mean": r.mean, "ci": [r.low, r.high]}
                for r in self.runs
            ],
            "pairs": [_pair_dict(pair) for pair in self.pairs],
            "tests": {"p": "paired t, two-sided", "p_wilcoxon": "Wilcoxon signed-rank, two-sided, zeros dropped"},
            "correction": "Holm",
            "notes": list(self.notes),
        }


def compare(qrels: Qrels, runs: Iterable[Run], measure: str, *, relevant: int = 1, alpha: float = 0.05) -> Comparison:
    """Measure runs and test every pair of them.

    Args:
        qrels: The judgments.
        runs: At least two, with different names.
        measure: One name, see `rerank.evaluation.measures.parse_measures`.
        relevant: The lowest grade that binary measures count as relevant where the name gives none.
        alpha: Level of significance, for the corrected p-values.

    Raises:
        UsageError: Too few runs, two of one name, more than one measure, or an alpha outside 0 to 1.
        DataError: Fewer than two judged queries, or a run that shares none with the judgments.
        MissingPrerequisiteError: The measure needs something that is not installed.
    """
    runs = list(runs)
    names = [str(m) for m in parse_measures([measure], relevant=relevant)]
    if len(names) != 1:
        raise UsageError(f"{measure!r} stands for {len(names)} measures", expected="one measure in a comparison")
    _check_names([run.name for run in runs])
    return compare_scores(evaluate_all(qrels, runs, [measure], relevant=relevant), names[0], alpha=alpha)


def compare_scores(scores: Sequence[Scores], measure: str, *, alpha: float = 0.05) -> Comparison:
    """Test every pair of runs that are measured already; see `compare`.

    Args:
        scores: At least two, with different names, over the same judged queries.
        measure: As ir_measures prints it; all of them must have it.
        alpha: Level of significance, for the corrected p-values.
    """
    names = [entry.run for entry in scores]
    _check_names(names)
    if not 0 < alpha < 1:
        raise UsageError(f"alpha={alpha}", expected="a number between 0 and 1")
    columns = [_column(entry, measure, scores[0].queries) for entry in scores]
    count = len(columns[0])
    if count < 2:
        raise DataError(f"The runs have {count} judged query", expected="at least 2 to compare runs on")
    summaries = []
    for entry, column in zip(scores, columns, strict=True):
        low, high = mean_interval(column)
        mean = entry.mean(measure)
        summaries.append(RunSummary(run=entry.run, mean=mean, low=low, high=high, missing=len(entry.missing)))
    pairs = _pairs(names, columns, alpha)
    return Comparison(
        measure=measure,
        alpha=alpha,
        queries=count,
        runs=tuple(summaries),
        pairs=pairs,
        notes=_notes(scores, pairs, count),
    )


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise UsageError(f"{len(names)} run to compare", expected="at least two")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"Two runs are called {name!r}", remedy="Give each another name")


def _column(entry: Scores, measure: str, queries: Sequence[str]) -> list[float]:
    """The values of one run, in the order of ``queries``."""
    row = entry.values.get(measure)
    if row is None:
        raise UsageError(f"Run {entry.run!r} has no {measure}", expected=f"one of: {', '.join(entry.measures)}")
    if len(row) != len(queries) or any(query not in row for query in queries):
        raise DataError(f"Run {entry.run!r} was measured on other queries than the first", expected="the same qrels")
    return [row[query] for query in queries]


def _pairs(names: Sequence[str], columns: Sequence[Sequence[float]], alpha: float) -> tuple[Pair, ...]:
    couples = list(itertools.combinations(range(len(names)), 2))
    # equal scores may differ in their last bits, which must make neither a win nor a rank of its own
    deltas = [[round(x - y, DECIMALS) for x, y in zip(columns[a], columns[b], strict=True)] for a, b in couples]
    p_t, p_w = [paired_t(d) for d in deltas], [wilcoxon(d) for d in deltas]
    # without spread the t-test cannot be computed: such a pair counts in the correction and is never significant
    adjusted_t = holm([1.0 if is_constant(d) else p for d, p in zip(deltas, p_t, strict=True)])
    adjusted_w = holm(p_w)
    pairs = []
    for index, ((a, b), delta) in enumerate(zip(couples, deltas, strict=True)):
        low, high = mean_interval(delta)
        wins, losses = sum(d > 0 for d in delta), sum(d < 0 for d in delta)
        pairs.append(
            Pair(
                a=names[a],
                b=names[b],
                difference=math.fsum(delta) / len(delta),
                low=low,
                high=high,
                wins=wins,
                ties=len(delta) - wins - losses,
                losses=losses,
                p=p_t[index],
                p_adjusted=adjusted_t[index],
                p_wilcoxon=p_w[index],
                p_wilcoxon_adjusted=adjusted_w[index],
                significant=adjusted_t[index] <= alpha,
            )
        )
    return tuple(pairs)


def _notes(scores: Sequence[Scores], pairs: Sequence[Pair], count: int) -> tuple[str, ...]:
    notes = [
        f"Run {entry.run!r} lacks {len(entry.missing)} of {count} judged queries; they count as 0."
        for entry in scores
        if entry.missing
    ]
    notes += [
        f"{pair.a!r} and {pair.b!r}: all {count} differences are equal, so the t-test cannot be computed; see Wilcoxon."
        for pair in pairs
        if pair.untestable
    ]
    if count < FEW_TOPICS:
        notes.append(f"Only {count} queries: differences must be large to be found, and p-values are rough.")
    return tuple(notes)


def _pair_dict(pair: Pair) -> dict[str, Any]:
    entry = asdict(pair)
    ci = [entry.pop("low"), entry.pop("high")]
    return {**entry, "ci": ci}
