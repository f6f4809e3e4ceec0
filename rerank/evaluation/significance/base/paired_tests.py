"""Significance tests of one pair of systems, as functions of its per-topic differences.

No p-value is 0 or NaN: if there is nothing to test (all differences are 0, or there is one topic), p is 1, and values
that underflow become `SMALLEST`. Differences that are all equal have no estimable variance
(`are_differences_constant`); the p-value of the t-test is then a limit, not evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rerank.evaluation.significance.base import SMALLEST
from rerank.evaluation.significance.base.corrections import correct_p_values

#: Largest number of non-zero differences for which the Wilcoxon test is exact instead of a normal approximation.
EXACT_UP_TO = 25


def student_t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a mean by Student's t.

    Args:
        values: At least two numbers.
        confidence: Confidence level, between 0 and 1.

    Returns:
        The lower and the upper end.
    """
    from scipy.stats import t

    mean, error = _mean_and_error(values)
    half = error * float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return mean - half, mean + half


def paired_t(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the paired t-test.

    Differences that are all equal and not 0 have no variance: t is unbounded and p is `SMALLEST`, however few they are.
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
    """Return whether all differences are equal, so that the variance needed by the t-test cannot be estimated."""
    return min(differences) == max(differences)


def signed_rank(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test.

    Zero differences are dropped (Wilcoxon's own rule); equal sizes share their mean rank. With at most `EXACT_UP_TO`
    differences the p-value is exact, ties included, because the approximation is too liberal there. With more, it is
    the normal approximation, corrected for ties and without continuity correction.
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
    """Return Holm's adjustment of a list of p-values."""
    return [float(p) for p in correct_p_values(np.asarray(p_values, dtype=np.float64), "holm")]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    count = len(values)
    mean = math.fsum(values) / count
    if are_differences_constant(values):  # rounding in the mean must not look like variance
        return values[0], 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1) / count)


def exact_signed_rank(ranks: Sequence[int], observed: int) -> float:
    """Return the exact two-sided p-value of a sum of positive ranks under random signs.

    Args:
        ranks: Twice the mid-ranks, which makes them integers, in ascending order.
        observed: Sum of the (doubled) ranks of positive differences.
    """
    # the distribution of the sum is symmetric: p = 2 P(W <= min(W+, W-))
    smaller = min(observed, sum(ranks) - observed)
    return _bounded_p_value(2 * int(_count_sign_patterns(tuple(ranks))[smaller]) / 2 ** len(ranks))


@lru_cache(maxsize=1 << 14)
def _count_sign_patterns(ranks: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the number of sign patterns with a sum of at most 0, 1, ..., sum(ranks).

    Without ties, the table depends on the number of ranks only, so caching helps.
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
