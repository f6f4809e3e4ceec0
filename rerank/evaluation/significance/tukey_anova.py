"""Tukey's honestly significant difference after a two-way analysis of variance, paired by topic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import SMALLEST, Bools, Floats, clip_p_values, mean_paired_differences
from rerank.evaluation.significance.base.two_way_anova import anova_mean_square_error

#: Largest number of pairs for which SciPy computes every p-value. With more pairs, p-values are interpolated.
_EXACT = 200
#: Number of exact p-values between which others are interpolated.
_NODES = 200
#: Smallest p-value used for the interpolation: SciPy's integration is accurate to about twelve decimals.
_FLOOR = 1e-12


@dataclass(frozen=True)
class TukeyAnova:
    """Tukey HSD with the model: score = grand mean + topic effect + system effect + error of constant variance.

    With n topics and m systems, MSE = sum (x_ij - x_i. - x_.j + x_..)^2 / ((n - 1)(m - 1)). For a difference d between
    two means, q = |d| / sqrt(MSE / n) is compared with the studentised range distribution for m means and
    (n - 1)(m - 1) degrees of freedom. The test controls the family-wise error, so it needs no correction. If the topic
    and system effects explain all variance, p is 1. Source: Tukey 1953; Tague-Sutcliffe and Blustein, TREC-3;
    Carterette, TOIS 2012, section 4.2.
    """

    title: ClassVar[str] = "Tukey HSD after two-way ANOVA"
    family_wise: ClassVar[bool] = True

    def p_values(self, scores: Floats) -> Floats:
        """Return the (pairs,) p-values, interpolated if there are more than `_EXACT` pairs.

        SciPy needs a few milliseconds per p-value. `significant` does not use these p-values: it compares q with one
        exact quantile.
        """
        q, systems, freedom = self._statistic(scores)
        if freedom < 1 or not q.any():
            return np.ones(len(q))
        if len(q) <= _EXACT:
            return studentised_range_tail(q, systems, freedom)
        return clip_p_values(_interpolated_studentised_p_values(q, systems, freedom))

    def significant(self, scores: Floats, alpha: float) -> Bools:
        """Return a boolean array of shape (pairs,): whether q reaches the critical value at level ``alpha``."""
        q, systems, freedom = self._statistic(scores)
        return (
            q >= critical_studentised_range(alpha, systems, freedom) if freedom >= 1 else np.zeros(len(q), dtype=bool)
        )

    def half_width(self, scores: Floats, alpha: float) -> float:
        """Return the honestly significant difference: the critical value times sqrt(MSE / n)."""
        topics, systems = scores.shape
        critical = critical_studentised_range(alpha, systems, (topics - 1) * (systems - 1))
        return critical * float(np.sqrt(anova_mean_square_error(scores) / topics))

    def resolution(self, topics: int) -> float:
        """Return the smallest positive float: p-values have no lower bound."""
        return SMALLEST

    def _statistic(self, scores: Floats) -> tuple[Floats, int, int]:
        """Return q for every pair, shape (pairs,), the number of systems, and the degrees of freedom."""
        topics, systems = scores.shape
        freedom = (topics - 1) * (systems - 1)
        # (pairs,) |d|
        d = np.abs(mean_paired_differences(scores))
        if freedom < 1:
            return d, systems, freedom
        error = anova_mean_square_error(scores)
        return d / np.sqrt(error / topics) if error > 0 else np.zeros(len(d)), systems, freedom


def studentised_range_tail(q: Floats, systems: int, freedom: int) -> Floats:
    """Return the probability that the studentised range of ``systems`` means exceeds each value of ``q``."""
    from scipy.stats import studentized_range

    return clip_p_values(np.asarray(studentized_range.sf(q, systems, freedom)))


def _interpolated_studentised_p_values(q: Floats, systems: int, freedom: int) -> Floats:
    """Return p-values for many q quickly: interpolate the log p-value between exact values at equidistant points."""
    from scipy.interpolate import PchipInterpolator

    # PCHIP interpolation is monotone, so larger differences never get larger p-values
    nodes = np.linspace(0.0, float(q.max()), _NODES)
    logs = np.log(np.maximum(studentised_range_tail(nodes, systems, freedom), _FLOOR))
    return np.asarray(np.exp(PchipInterpolator(nodes, logs)(q)))


@lru_cache(maxsize=256)
def critical_studentised_range(alpha: float, systems: int, freedom: int) -> float:
    """Return the quantile of the studentised range that is exceeded with probability ``alpha``."""
    from scipy.stats import studentized_range

    return float(studentized_range.isf(alpha, systems, freedom))
