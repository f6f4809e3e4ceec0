"""Two-way analysis of variance and Tukey's honestly significant difference, paired by topic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import SMALLEST, Bools, Floats, bounded, mean_differences

#: Up to so many pairs every p-value is SciPy's own.
_EXACT = 200
#: Exact values between which others are interpolated.
_NODES = 200
#: SciPy integrates to about twelve decimals.
_FLOOR = 1e-12


@dataclass(frozen=True)
class TukeyAnova:
    """A score is a grand mean, an effect of its topic, one of its system, and an error of one variance for all.

    MSE = sum (x_ij - x_i. - x_.j + x_..)^2 / ((n - 1)(m - 1)); q = |d| / sqrt(MSE / n) is compared with the studentised
    range of m means and (n - 1)(m - 1) degrees of freedom. It holds for all pairs together, so it needs no correction.
    Where topic and system explain everything, there is no error to measure a difference by: p is 1.
    Source: Tukey 1953; Tague-Sutcliffe and Blustein, TREC-3; Carterette, TOIS 2012, section 4.2.
    """

    title: ClassVar[str] = "Tukey HSD after two-way ANOVA"
    family_wise: ClassVar[bool] = True

    def p_values(self, scores: Floats) -> Floats:
        """See `PairTest`. SciPy takes some milliseconds for each: beyond `_EXACT` pairs they are interpolated.

        `significant` asks for one quantile instead, and never decides by an interpolated value.
        """
        q, systems, freedom = self._statistic(scores)
        if freedom < 1 or not q.any():
            return np.ones(len(q))
        if len(q) <= _EXACT:
            return exceeded(q, systems, freedom)
        return bounded(_interpolated(q, systems, freedom))

    def significant(self, scores: Floats, alpha: float) -> Bools:
        """See `SupportsDecision`."""
        q, systems, freedom = self._statistic(scores)
        return q >= critical(alpha, systems, freedom) if freedom >= 1 else np.zeros(len(q), dtype=bool)

    def resolution(self, topics: int) -> float:
        """See `PairTest`."""
        return SMALLEST

    def _statistic(self, scores: Floats) -> tuple[Floats, int, int]:
        """(pairs,) q, the number of systems, and the degrees of freedom."""
        topics, systems = scores.shape
        freedom = (topics - 1) * (systems - 1)
        d = np.abs(mean_differences(scores))
        if freedom < 1:
            return d, systems, freedom
        error = mean_square_error(scores)
        return d / np.sqrt(error / topics) if error > 0 else np.zeros(len(d)), systems, freedom


def mean_square_error(scores: Floats) -> float:
    """What topic and system leave unexplained, for each degree of freedom; 0 where it is but rounding."""
    topics, systems = scores.shape
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + scores.mean()
    rest[np.abs(rest) < 1e-14 * max(1.0, float(np.abs(scores).max()))] = 0.0
    return float((rest**2).sum() / ((topics - 1) * (systems - 1)))


def exceeded(q: Floats, systems: int, freedom: int) -> Floats:
    """The chance that the studentised range of ``systems`` means reaches each of ``q``."""
    from scipy.stats import studentized_range

    return bounded(np.asarray(studentized_range.sf(q, systems, freedom)))


def _interpolated(q: Floats, systems: int, freedom: int) -> Floats:
    """The same between exact values at even distances, smoothly in log p; what is below `_FLOOR` is rough anyway."""
    from scipy.interpolate import PchipInterpolator

    nodes = np.linspace(0.0, float(q.max()), _NODES)
    logs = np.log(np.maximum(exceeded(nodes, systems, freedom), _FLOOR))
    return np.asarray(np.exp(PchipInterpolator(nodes, logs)(q)))


@lru_cache(maxsize=256)
def critical(alpha: float, systems: int, freedom: int) -> float:
    """The studentised range that is exceeded with a chance of ``alpha``."""
    from scipy.stats import studentized_range

    return float(studentized_range.isf(alpha, systems, freedom))
