"""Significance tests for one pair of systems, as functions of the per-topic differences.

No p-value is 0 or NaN. If there is nothing to test (all differences are 0, or there is one topic), p is 1. Values that
underflow become `SMALLEST`. If all differences are equal (`are_differences_constant`), their variance cannot be
estimated; the p-value of the t-test is then a limit and no evidence of a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rerank.evaluation.significance.base import SMALLEST
from rerank.evaluation.significance.base.corrections import correct_p_values

#: Largest number of non-zero differences with an exact Wilcoxon test. With more, the normal approximation is used.
EXACT_UP_TO = 25


def student_t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a mean, based on Student's t distribution.

    Args:
        values: At least two numbers.
        confidence: Confidence level, between 0 and 1.

    Returns:
        The lower and the upper end of the interval.
    """
    from scipy.stats import t

    mean, error = _mean_and_error(values)
    half = error * float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return mean - half, mean + half


def paired_t(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the paired t-test.

    If all differences are equal and not 0, their variance is 0, t is infinite and p is `SMALLEST`, even for two topics.
    Check `are_differences_constant` first.
    """
    from scipy.stats import t

    if len(differences) < 2 or not any(differences):
        return 1.0
    mean, error = _mean_and_error(differences)
    if error == 0.0:
        return SMALLEST
    return _bounded_p_value(2 * float(t.sf(abs(mean / error), len(differences) - 1)))


def are_differences_constant(differences: Sequence[float]) -> bool:
    """Return whether all differences are equal. The t-test then cannot estimate their variance."""
    return min(differences) == max(differences)


def signed_rank(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test.

    Zero differences are dropped (Wilcoxon's own rule), and differences of equal size share their mean rank. With at
    most `EXACT_UP_TO` non-zero differences, the p-value is exact, even with ties, because the normal approximation
    is too liberal for so few differences. With more, the normal approximation is used, with a correction for ties and
    without a continuity correction.
    """
    from scipy import stats

    nonzero = [d for d in differences if d]
    if not nonzero:
        return 1.0
    if len(nonzero) > EXACT_UP_TO:
        return _bounded_p_value(float(stats.wilcoxon(nonzero, zero_method="wilcox", method="approx").pvalue))
    # mid-ranks are multiples of 1/2, so doubling makes them integers
    doubled = [round(2 * rank) for rank in stats.rankdata([abs(d) for d in nonzero])]
    return exact_signed_rank(sorted(doubled), sum(r for r, d in zip(doubled, nonzero, strict=True) if d > 0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several pairs, adjusted by Holm's correction, as a list."""
    return [float(p) for p in correct_p_values(np.asarray(p_values, dtype=np.float64), "holm")]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the values and the standard error of the mean."""
    count = len(values)
    mean = math.fsum(values) / count
    if are_differences_constant(values):  # rounding in the mean must not look like variance
        return values[0], 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1) / count)


def exact_signed_rank(ranks: Sequence[int], observed: int) -> float:
    """Return the exact two-sided p-value of Wilcoxon's signed-rank sum, from all possible signs of the differences.

    Args:
        ranks: Doubled mid-ranks in ascending order. Doubling makes mid-ranks integers.
        observed: Sum of the doubled ranks of the positive differences.
    """
    # the distribution of the sum is symmetric: p = 2 P(W <= min(W+, W-))
    smaller = min(observed, sum(ranks) - observed)
    return _bounded_p_value(2 * int(_count_sign_patterns(tuple(ranks))[smaller]) / 2 ** len(ranks))


@lru_cache(maxsize=1 << 14)
def _count_sign_patterns(ranks: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return an array of counts: entry s is the number of sign patterns whose positive ranks sum to at most s.

    Without ties, the array depends only on the number of ranks, so caching is effective.
    """
    ways = np.zeros(sum(ranks) + 1, dtype=np.int64)
    ways[0], reach = 1, 0
    # dynamic programming: ways[s] = number of subsets of the ranks so far with sum s
    for rank in ranks:
        ways[rank : reach + rank + 1] += ways[: reach + 1].copy()
        reach += rank
    return ways.cumsum()


def _bounded_p_value(p: float) -> float:
    return min(1.0, max(SMALLEST, p))
