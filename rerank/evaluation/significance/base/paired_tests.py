"""Tests on paired differences, one a topic, and the correction for making many of them.

Pure functions of numbers; knows nothing of runs or measures. No p-value is 0 or NaN: where the data leave nothing to
test (all differences 0, or one topic), p is 1, and what underflows is `SMALLEST`. Differences that are all the same
are no sample that t could judge (`is_constant`): its p is then a limit, not evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rerank.evaluation.significance.base import SMALLEST
from rerank.evaluation.significance.base.corrections import correct

#: Up to so many non-zero differences the Wilcoxon test is exact, above it uses the normal approximation.
EXACT_UP_TO = 25


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a mean by Student's t.

    Args:
        values: At least two numbers.
        confidence: The level, between 0 and 1.

    Returns:
        The lower and the upper end.
    """
    from scipy.stats import t

    mean, error = _mean_and_error(values)
    half = error * float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return mean - half, mean + half


def paired_t(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test.

    Differences that are all the same and not 0 have no spread: t grows without bound, and p is `SMALLEST`, however
    few they are. Ask `is_constant` before believing it.
    """
    from scipy.stats import t

    if len(differences) < 2 or not any(differences):
        return 1.0
    mean, error = _mean_and_error(differences)
    if error == 0.0:
        return SMALLEST
    return _bounded(2 * float(t.sf(abs(mean / error), len(differences) - 1)))


def is_constant(differences: Sequence[float]) -> bool:
    """Whether all differences are the same, so that their spread, which the t-test needs, cannot be estimated."""
    return min(differences) == max(differences)


def signed_rank(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test.

    Zero differences are dropped (Wilcoxon's own rule); equal sizes share their mean rank. With at most `EXACT_UP_TO`
    differences the p-value is exact, ties included, as the approximation calls too much significant there. With more
    it is the normal approximation, corrected for ties and without a continuity correction.
    """
    from scipy import stats

    nonzero = [d for d in differences if d]
    if not nonzero:
        return 1.0
    if len(nonzero) > EXACT_UP_TO:
        return _bounded(float(stats.wilcoxon(nonzero, zero_method="wilcox", method="approx").pvalue))
    doubled = [round(2 * rank) for rank in stats.rankdata([abs(d) for d in nonzero])]
    return exact_signed_rank(sorted(doubled), sum(r for r, d in zip(doubled, nonzero, strict=True) if d > 0))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a list, see `rerank.evaluation.significance.correct`."""
    return [float(p) for p in correct(np.asarray(p_values, dtype=np.float64), "holm")]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error."""
    count = len(values)
    mean = math.fsum(values) / count
    if is_constant(values):  # rounding of the mean must not pass for spread
        return values[0], 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1) / count)


def exact_signed_rank(ranks: Sequence[int], observed: int) -> float:
    """Two-sided p of a sum of positive ranks, when each sign is a fair coin.

    Args:
        ranks: Twice the mid-ranks, so that they are whole, ascending.
        observed: The sum of those whose difference is positive.
    """
    smaller = min(observed, sum(ranks) - observed)
    return _bounded(2 * int(_choices(tuple(ranks))[smaller]) / 2 ** len(ranks))


@lru_cache(maxsize=1 << 14)
def _choices(ranks: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """How many choices of signs give a sum of at most 0, 1, ... sum(ranks). Without ties it is one table a length."""
    ways = np.zeros(sum(ranks) + 1, dtype=np.int64)
    ways[0], reach = 1, 0
    for rank in ranks:
        ways[rank : reach + rank + 1] += ways[: reach + 1].copy()
        reach += rank
    return ways.cumsum()


def _bounded(p: float) -> float:
    return min(1.0, max(SMALLEST, p))
