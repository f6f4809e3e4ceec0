"""Goals for a reduced benchmark, and the metrics that compare its conclusions with those of the full benchmark.

The metrics are the same as for cheaper judgments (`rerank.adjudication`). The full benchmark takes the role of the gold
judgments, and the reduced benchmark the role of the cheap judgments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from rerank.adjudication.conclusions import NAMES, Codes, Procedure, SignificanceVerdicts, comparison_row
from rerank.errors import UsageError
from rerank.evaluation.significance.base import Floats

__all__ = [
    "Goal",
    "Procedure",
    "SignificanceCriterion",
    "benchmark_pairs_by_outcome",
    "benchmark_verdicts",
    "compare_benchmarks",
    "count_benchmark_pairs",
]

#: Names of the pair categories of each outcome, for pairs that differ significantly in at least one benchmark.
_OUTCOMES = {
    "kept": ("AA",),
    "lost": ("MA_missed", "MD_missed"),
    "new": ("MA_spurious", "MD_spurious"),
    "reversed": ("AD",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Minimum values that a reduced benchmark must reach. None means that there is no minimum.

    Attributes:
        tau: Kendall's tau-b between the systems' means in the reduced and in the full benchmark.
        recall: Fraction of the significant differences in the full benchmark that the reduced benchmark also finds, in
            the same direction.
        precision: Fraction of the significant differences in the reduced benchmark that the full benchmark confirms, in
            the same direction.
    """

    tau: float | None = 0.9
    recall: float | None = None
    precision: float | None = None

    def __post_init__(self) -> None:
        """Check that a minimum is given and that all minimums are from 0 to 1."""
        for name in ("tau", "recall", "precision"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"The minimum {name} is {value}", expected="a number from 0 to 1")
        if self.tau is self.recall is self.precision is None:
            raise UsageError("The goal has no minimum", expected="a minimum of tau, recall or precision")

    def is_met(self, figures: dict[str, Any]) -> bool:
        """Return whether the metrics of `compare_benchmarks` reach the goal.

        A recall or precision that is undefined (0 / 0) meets the goal, because no difference is lost or wrong.
        """
        minimums = {"tau": self.tau, "recall": self.recall, "precision": self.precision}
        # tau is undefined for a ranking with only ties; such a ranking does not meet the goal
        return all(
            minimum is None or (figures[name] is None and name != "tau") or (figures[name] or 0.0) >= minimum - 1e-12
            for name, minimum in minimums.items()
        )


@dataclass(frozen=True, kw_only=True)
class SignificanceCriterion:
    """The test that decides whether two systems differ significantly.

    Attributes:
        procedure: The paired test and its correction.
        alpha: Significance level.
    """

    procedure: Procedure = field(default_factory=lambda: Procedure("t", "bh"))
    alpha: float = 0.05


def benchmark_verdicts(
    values: Floats, systems: Sequence[str], criterion: SignificanceCriterion
) -> SignificanceVerdicts:
    """Test every pair of systems on scores of shape (tasks or queries, systems). With one row, none is significant."""
    names = tuple(systems)
    if len(values) < 2:
        pairs = len(names) * (len(names) - 1) // 2
        return SignificanceVerdicts(values, names, (np.zeros(pairs, dtype=np.bool_),))
    return SignificanceVerdicts.from_scores(values, names, [criterion.procedure], criterion.alpha)


def count_benchmark_pairs(whole: SignificanceVerdicts) -> dict[str, int]:
    """Return the numbers of systems, rows (tasks or queries), pairs and significant pairs in the full benchmark."""
    return {
        "systems": len(whole.systems),
        "rows": len(whole.values),
        "pairs": len(whole.differences),
        "significant": int(whole.significant[0].sum()),
    }


def compare_benchmarks(gold: SignificanceVerdicts, cheap: SignificanceVerdicts) -> dict[str, Any]:
    """Compare a reduced benchmark (``cheap``) with the full one (``gold``): pair categories, rates, similarities."""
    (codes,) = cheap.categorise_against(gold)
    return {
        **comparison_row(codes, cheap.compare_ranking(gold)),
        "spearman": spearman_of_benchmarks(gold.means, cheap.means),
    }


def spearman_of_benchmarks(first: Floats, second: Floats) -> float | None:
    """Compute Spearman's rank correlation of the systems' means; None if all means in either array are equal."""
    from scipy.stats import rankdata

    # after rounding, means that differ only by rounding errors are tied
    ranks = np.asarray(rankdata(np.round([first, second], 12), axis=1))
    return None if (np.ptp(ranks, axis=1) == 0).any() else round(float(np.atleast_2d(np.corrcoef(ranks))[0, 1]), 12)


def benchmark_pairs_by_outcome(gold: SignificanceVerdicts, cheap: SignificanceVerdicts) -> dict[str, list[list[str]]]:
    """Return the significant pairs that a reduced benchmark keeps, loses, adds and reverses, each as [better, worse].

    The better system is the better one in the full benchmark; for new pairs, in the reduced benchmark.
    """
    (codes,) = cheap.categorise_against(gold)
    return {
        outcome: _named_benchmark_pairs(codes, kinds, cheap if outcome == "new" else gold)
        for outcome, kinds in _OUTCOMES.items()
    }


def _named_benchmark_pairs(codes: Codes, kinds: Sequence[str], finder: SignificanceVerdicts) -> list[list[str]]:
    codes_of_kinds = [NAMES.index(kind) for kind in kinds]
    system_pairs = combinations(finder.systems, 2)
    return [
        [a, b] if difference >= 0 else [b, a]
        for (a, b), code, difference in zip(system_pairs, codes, finder.differences, strict=True)
        if code in codes_of_kinds
    ]
