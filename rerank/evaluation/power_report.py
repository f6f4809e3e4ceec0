"""Power analysis of existing runs: which differences their comparison can detect, and how many topics it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

from rerank.errors import UnknownNameError
from rerank.evaluation.comparison_family import ComparisonOptions
from rerank.evaluation.pairwise_decisions import check_significance_level
from rerank.evaluation.power import smallest_detectable_difference, topics_needed_for_power
from rerank.evaluation.score_matrix import ScoreMatrix
from rerank.evaluation.scores import Scores
from rerank.evaluation.tables import format_measure_score
from rerank.io.reports import Grid, Report, TableReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerGoal:
    """The difference that a comparison should detect, and the required power.

    Attributes:
        power: Probability of detecting a true difference.
        difference: The smallest true difference that matters, in units of the measure. If it is None, the number of
            topics needed is not computed.
    """

    power: float = 0.8
    difference: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerReport(Report):
    """Power of the paired t-test for pairs of runs.

    Attributes:
        measure: Name of the measure.
        topics: Number of topics.
        alpha: Significance level of the whole comparison.
        level: Level of a single pair: alpha divided by the number of pairs, or alpha without a correction.
        goal: The difference to detect and the required power.
        rows: One row per pair: ``a``, ``b``, ``difference`` (observed), ``sd`` (standard deviation of the per-topic
            differences), ``detectable`` (smallest detectable difference) and, if the goal contains a difference,
            ``topics_needed`` (None if all per-topic differences are equal).
    """

    rows_key = "rows"

    measure: str
    topics: int
    alpha: float
    level: float
    goal: PowerGoal
    rows: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank power --format json``."""
        return {
            "measure": self.measure,
            "topics": self.topics,
            "alpha": self.alpha,
            "level": self.level,
            "pairs": len(self.rows),
            "power": self.goal.power,
            "difference": self.goal.difference,
            "median_sd": median(row["sd"] for row in self.rows),
            "median_detectable": median(row["detectable"] for row in self.rows),
            "rows": list(self.rows),
        }

    def tables(self, digits: int = 4) -> TableReport:
        """Return a table with one row per pair, and its legend."""
        heads = ["a", "b", "difference", "sd", "detectable", *(["topics"] if self.goal.difference else [])]
        rows = [
            [
                row["a"],
                row["b"],
                f"{row['difference']:+.{digits}f}",
                format_measure_score(row["sd"], digits),
                format_measure_score(row["detectable"], digits),
                *(["-" if row["topics_needed"] is None else str(row["topics_needed"])] if self.goal.difference else []),
            ]
            for row in self.rows
        ]
        legend = [
            f"{self.measure}, {self.topics} queries. Detectable: smallest true difference that a paired t-test finds "
            f"with power {self.goal.power:g} at level {self.level:.3g} (alpha {self.alpha:g}, {len(rows)} "
            f"pair{'s' * (len(rows) != 1)})."
        ]
        if self.goal.difference:
            legend.append(
                f"Topics: number of topics with which a true difference of {self.goal.difference:g} is found."
            )
        return TableReport([Grid(heads, rows, left=2)], legend)


def report_power_of_runs(
    scores: Sequence[Scores],
    measure: str,
    *,
    options: ComparisonOptions | None = None,
    goal: PowerGoal | None = None,
    baseline: str = "",
) -> PowerReport:
    """Compute what a comparison of runs can detect, from the standard deviations of their per-topic differences.

    The observed differences are not used, because power at the observed difference only restates the p-value (Hoenig
    and Heisey, American Statistician 2001).

    Args:
        scores: Scores of at least two runs with different names, over the same judged queries.
        measure: The measure, as ir_measures prints it.
        options: Significance level and correction. Every correction except ``none`` divides the level by the number of
            pairs (Bonferroni), which is conservative for all corrections.
        goal: The difference to detect and the required power.
        baseline: Name of the run with which all others are compared; empty for all pairs.
    """
    options, goal = options or ComparisonOptions(), goal or PowerGoal()
    check_significance_level(options.alpha)
    matrix = ScoreMatrix.from_scores(scores, measure)
    if baseline and baseline not in matrix.systems:
        raise UnknownNameError("baseline", baseline, matrix.systems)
    others = [(name, baseline) for name in matrix.systems if name != baseline]
    pairs = others if baseline else list(combinations(matrix.systems, 2))
    level = options.alpha if options.correction == "none" else options.alpha / len(pairs)
    rows = []
    for a, b in pairs:
        deltas = matrix.deltas(a, b)
        sd = 0.0 if deltas.min() == deltas.max() else float(deltas.std(ddof=1))
        row: dict[str, Any] = {"a": a, "b": b, "difference": float(deltas.mean()), "sd": sd}
        row["detectable"] = smallest_detectable_difference(len(deltas), sd, level, goal.power)
        if goal.difference is not None:
            row["topics_needed"] = topics_needed_for_power(goal.difference, sd, level, goal.power) if sd else None
        rows.append(row)
    return PowerReport(
        measure=measure, topics=len(matrix.topics), alpha=options.alpha, level=level, goal=goal, rows=tuple(rows)
    )
