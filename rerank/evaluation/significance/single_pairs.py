"""Tests that compare two systems at a time: the paired t-test, Wilcoxon's signed-rank test and the sign test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rerank.evaluation.significance.base import (
    DECIMALS,
    SMALLEST,
    Floats,
    SinglePairTest,
    clip_p_values,
    correct_p_values,
    iterate_paired_differences,
    standard_errors,
)

#: Largest number of non-zero differences with an exact Wilcoxon test. With more, the normal approximation is used.
EXACT_UP_TO = 25


@dataclass(frozen=True)
class T(SinglePairTest):
    """Paired t-test on the differences d: t = mean(d) / (sd(d) / sqrt(n)) with n - 1 degrees of freedom.

    If all differences are equal and not 0, p is 1. Their estimated variance is 0, so t would be infinite and p 0 even
    for two topics. But a variance of 0 is impossible in the test's model: equal differences are an artefact of the
    measure's few values, as of reciprocal rank, and say nothing about the variance. If either sign is equally likely
    without a difference, as Wilcoxon's test assumes, n equal differences have a p-value of 2 / 2^n; a p-value near 0
    would reject too often. `Wilcoxon`, `Sign` and ``permutation`` test such differences exactly. Source: Student 1908.
    """

    title: ClassVar[str] = "paired t"

    def p_values(self, scores: Floats) -> Floats:
        count = len(scores)
        if count < 2:
            return np.ones(scores.shape[1] * (scores.shape[1] - 1) // 2)
        differences = iterate_paired_differences(scores)
        return np.concatenate([_t_p_values(d.mean(axis=0), standard_errors(d), count) for d in differences])


def _t_p_values(mean: Floats, error: Floats, topics: int) -> Floats:
    from scipy.stats import t

    # sf is the upper tail, doubled for a two-sided test
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * t.sf(np.abs(mean) / error, topics - 1)
    return np.where(error > 0, clip_p_values(p), 1.0)


@dataclass(frozen=True, kw_only=True)
class Wilcoxon(SinglePairTest):
    """Wilcoxon's signed-rank test. Zero differences are dropped (Wilcoxon's own rule); ties share their mean rank.

    With at most 25 non-zero differences, p-values are exact, even with ties, because the normal approximation is too
    liberal for so few differences. With more, the approximation z = (W+ - N(N+1)/4) / s is used without continuity
    correction, where N is the number of non-zero differences and s^2 = N(N+1)(2N+1)/24 - sum(t^3 - t)/48, with the sum
    over groups of t tied differences. Source: Wilcoxon 1945; Pratt and Gibbons, Concepts of nonparametric theory, 1981,
    chapter 3.
    """

    title: ClassVar[str] = "Wilcoxon signed-rank, zeros dropped"

    #: Number of decimals to which differences are rounded; None for no rounding. Without rounding, the differences
    #: 0.3 - 0.2 and 0.2 - 0.1 are not tied, as in SciPy and in published results. Differences that round to 0 at 12
    #: decimals always count as 0.
    decimals: int | None = None

    def p_values(self, scores: Floats) -> Floats:
        return np.concatenate([_signed_rank_p_values(d) for d in iterate_paired_differences(scores, self.decimals)])

    def resolution(self, topics: int) -> float:
        return float(min(1.0, 2.0 ** (1 - topics))) if topics <= EXACT_UP_TO else SMALLEST


def _signed_rank_p_values(d: Floats) -> Floats:
    """Return (pairs,) p-values from (topics, pairs) differences. Ranks and ties come from a single sort."""
    from scipy.stats import norm

    # (pairs, topics), so that sorting works on contiguous rows
    d = np.ascontiguousarray(np.where(np.abs(d) < 10.0**-DECIMALS / 2, 0.0, d).T)
    sizes = np.abs(d)
    order = np.argsort(sizes, axis=1)
    sizes, positive = np.take_along_axis(sizes, order, axis=1), np.take_along_axis(d > 0, order, axis=1)
    low, high = _bounds_of_ties(sizes)
    nonzero = (sizes > 0).sum(axis=1)
    zeros = d.shape[1] - nonzero
    # zeros come first in a sorted row, so elements low .. high have ranks low + 1 - zeros .. high + 1 - zeros
    doubled = np.where(sizes > 0, low + high + 2 - 2 * zeros[:, None], 0)  # twice the mid-rank is an integer
    # 2 W+
    positive_sum = np.where(positive, doubled, 0).sum(axis=1)
    exact = nonzero <= EXACT_UP_TO
    p = np.empty(len(d))
    rows = zip(doubled[exact].tolist(), zeros[exact].tolist(), positive_sum[exact].tolist(), strict=True)
    p[exact] = [_exact_signed_rank(tuple(row[start:]), observed) for row, start, observed in rows]
    # each of t tied elements contributes t^2 - 1; together they contribute t^3 - t
    ties = np.where(sizes > 0, (high - low + 1.0) ** 2 - 1, 0.0)[~exact].sum(axis=1)
    n = nonzero[~exact]
    variance = n * (n + 1) * (2 * n + 1) / 24 - ties / 48
    p[~exact] = 2 * norm.sf(np.abs(positive_sum[~exact] / 2 - n * (n + 1) / 4) / np.sqrt(variance))
    return clip_p_values(p)


def _bounds_of_ties(ascending: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return, for each element of the sorted rows, the indices of the first and the last element equal to it."""
    indices = np.arange(ascending.shape[1])
    edge = np.ones((len(ascending), 1), dtype=bool)
    new = np.diff(ascending, axis=1) != 0
    # fill the start of each tie group forward and its end backward
    low = np.maximum.accumulate(np.where(np.hstack([edge, new]), indices, 0), axis=1)
    high = np.where(np.hstack([new, edge]), indices, indices[-1])
    return low, np.minimum.accumulate(high[:, ::-1], axis=1)[:, ::-1]


def _exact_signed_rank(ranks: tuple[int, ...], observed: int) -> float:
    """Return the exact p-value from the ascending doubled mid-ranks and the sum of those of positive differences."""
    # the distribution of the sum is symmetric: p = 2 P(W <= min(W+, W-))
    smaller = min(observed, sum(ranks) - observed)
    return float(2 * int(_count_sign_patterns(ranks)[smaller]) / 2 ** len(ranks))


@lru_cache(maxsize=1 << 14)
def _count_sign_patterns(ranks: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return how many sign patterns sum to at most each s; without ties, this depends on the number of ranks alone."""
    ways = np.zeros(sum(ranks) + 1, dtype=np.int64)
    ways[0], reach = 1, 0
    # dynamic programming: ways[s] = number of subsets of the ranks so far with sum s
    for rank in ranks:
        ways[rank : reach + rank + 1] += ways[: reach + 1].copy()
        reach += rank
    return ways.cumsum()


@dataclass(frozen=True)
class Sign(SinglePairTest):
    """Sign test: an exact, two-sided binomial test of wins against losses.

    With w wins and l losses, p = 2 P(X <= min(w, l)) for X ~ Binomial(w + l, 1/2); ties are dropped. Source: Arbuthnot
    1710; Conover, Practical nonparametric statistics, section 3.4.
    """

    title: ClassVar[str] = "sign test, ties dropped"

    def p_values(self, scores: Floats) -> Floats:
        from scipy.stats import binom

        p_values = []
        for d in iterate_paired_differences(scores):
            wins, losses = (d > 0).sum(axis=0), (d < 0).sum(axis=0)
            p_values.append(2 * binom.cdf(np.minimum(wins, losses), wins + losses, 0.5))
        return clip_p_values(np.concatenate(p_values))

    def resolution(self, topics: int) -> float:
        return float(min(1.0, 2.0 ** (1 - topics)))


def student_t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the ends of the confidence interval of the mean of two or more values, by Student's t."""
    from scipy.stats import t

    mean, error = _mean_and_error(values)
    half = error * float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return mean - half, mean + half


def paired_t(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of `T`; sums are exact, unlike those of `T`, so last digits may differ."""
    if len(differences) < 2:
        return 1.0
    mean, error = (np.array(value) for value in _mean_and_error(differences))
    return float(_t_p_values(mean, error, len(differences)))


def are_differences_constant(differences: Sequence[float]) -> bool:
    """Return whether all differences are equal. The t-test then cannot estimate their variance."""
    return min(differences) == max(differences)


def signed_rank(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test `Wilcoxon`."""
    return float(_signed_rank_p_values(np.asarray(differences, dtype=np.float64)[:, None])[0])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of several pairs, adjusted by Holm's correction, as a list."""
    return [float(p) for p in correct_p_values(np.asarray(p_values, dtype=np.float64), "holm")]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    mean = math.fsum(values) / count
    if are_differences_constant(values):  # as in `sample_variances`
        return values[0], 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1) / count)
