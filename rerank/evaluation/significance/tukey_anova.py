"""Two-way analysis of variance and Tukey's honestly significant difference, paired by topic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import SMALLEST, Bools, Floats, bounded, mean_differences


@dataclass(frozen=True)
class TukeyAnova:
    """A score is a grand mean, an effect of its topic, one of its system, and an error of one variance for all.

    MSE = sum (x_ij - x_i. - x_.j + x_..)^2 / ((n - 1)(m - 1)); q = |d| / sqrt(MSE / n) is compared with the studentised
    range of m means and (n - 1)(m - 1) degrees of freedom. It holds for all pairs together, so it needs no correction.
    Source: Tukey 1953; Tague-Sutcliffe and Blustein, TREC-3; Carterette, TOIS 2012, section 4.2.
    """

    family_wise: ClassVar[bool] = True

    def p_values(self, scores: Floats) -> Floats:
        """See `PairTest`. Some milliseconds each: `significant` asks for one quantile instead."""
        from scipy.stats import studentized_range

        q, systems, freedom = self._statistic(scores)
        if freedom < 1:
            return np.ones(len(q))
        finite = np.isfinite(q)
        p = np.where(finite, 1.0, SMALLEST)
        p[finite] = studentized_range.sf(q[finite], systems, freedom)
        return bounded(p)

    def significant(self, scores: Floats, alpha: float) -> Bools:
        """See `PairTest`."""
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
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(d / np.sqrt(mean_square_error(scores) / topics), nan=0.0, posinf=np.inf), systems, freedom


def mean_square_error(scores: Floats) -> float:
    """What topic and system leave unexplained, for each degree of freedom; 0 where it is but rounding."""
    topics, systems = scores.shape
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0, keepdims=True) + scores.mean()
    rest[np.abs(rest) < 1e-14] = 0.0
    return float((rest**2).sum() / ((topics - 1) * (systems - 1)))


@lru_cache(maxsize=256)
def critical(alpha: float, systems: int, freedom: int) -> float:
    """The studentised range that is exceeded with a chance of ``alpha``."""
    from scipy.stats import studentized_range

    return float(studentized_range.isf(alpha, systems, freedom))
