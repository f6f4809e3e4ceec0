"""Wilcoxon's signed-rank test for all pairs of systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rerank.evaluation.significance.base import (
    DECIMALS,
    SMALLEST,
    Floats,
    SinglePairTest,
    clip_p_values,
    iterate_paired_differences,
)
from rerank.evaluation.significance.base.paired_tests import EXACT_UP_TO, exact_signed_rank


@dataclass(frozen=True, kw_only=True)
class Wilcoxon(SinglePairTest):
    """Wilcoxon's signed-rank test. Zero differences are dropped (Wilcoxon's own rule); ties share their mean rank.

    With at most 25 non-zero differences, p-values are exact, even with ties. With more, the normal approximation
    z = (W+ - N(N+1)/4) / s is used without continuity correction, where N is the number of non-zero differences and
    s^2 = N(N+1)(2N+1)/24 - sum(t^3 - t)/48, with the sum over groups of t tied differences. Source: Wilcoxon 1945;
    Pratt and Gibbons, Concepts of nonparametric theory, 1981, chapter 3.

    Attributes:
        decimals: Number of decimals to which differences are rounded; None for no rounding. Without rounding, the
            differences 0.3 - 0.2 and 0.2 - 0.1 are not tied, as in SciPy and in published results. Differences that
            round to 0 at 12 decimals always count as 0.
    """

    title: ClassVar[str] = "Wilcoxon signed-rank, zeros dropped"

    decimals: int | None = None

    def p_values(self, scores: Floats) -> Floats:
        """Return the two-sided (pairs,) p-values."""
        return clip_p_values(
            np.concatenate([_signed_rank_p_values(d) for d in iterate_paired_differences(scores, self.decimals)])
        )

    def resolution(self, topics: int) -> float:
        """Return 2 / 2^n if p-values are exact, otherwise the smallest positive float."""
        return float(min(1.0, 2.0 ** (1 - topics))) if topics <= EXACT_UP_TO else SMALLEST


def _signed_rank_p_values(d: Floats) -> Floats:
    """Return the (pairs,) p-values from the (topics, pairs) differences. Ranks and ties come from a single sort."""
    # (pairs, topics), so that sorting works on contiguous rows
    d = np.ascontiguousarray(np.where(np.abs(d) < 10.0**-DECIMALS / 2, 0.0, d).T)
    sizes = np.abs(d)
    order = np.argsort(sizes, axis=1)
    sizes, positive = np.take_along_axis(sizes, order, axis=1), np.take_along_axis(d > 0, order, axis=1)
    low, high = _bounds_of_tied_ranks(sizes)
    nonzero = (sizes > 0).sum(axis=1)
    zeros = d.shape[1] - nonzero
    # zeros come first in a sorted row, so elements low .. high have ranks low + 1 - zeros .. high + 1 - zeros
    doubled = np.where(sizes > 0, low + high + 2 - 2 * zeros[:, None], 0)  # twice the mid-rank is an integer
    # 2 W+
    positive_sum = np.where(positive, doubled, 0).sum(axis=1)
    exact = nonzero <= EXACT_UP_TO
    p = np.empty(len(d))
    rows = zip(doubled[exact].tolist(), zeros[exact].tolist(), positive_sum[exact].tolist(), strict=True)
    p[exact] = [exact_signed_rank(row[start:], observed) for row, start, observed in rows]
    # each of t tied elements contributes t^2 - 1; together they contribute t^3 - t
    ties = np.where(sizes > 0, (high - low + 1.0) ** 2 - 1, 0.0)[~exact].sum(axis=1)
    p[~exact] = _normal_approximation_of_p_values(positive_sum[~exact] / 2, nonzero[~exact], ties)
    return p


def _normal_approximation_of_p_values(positive_sum: Floats, count: Floats, ties: Floats) -> Floats:
    """Return p-values by the normal approximation.

    Args:
        positive_sum: (pairs,) W+, the sum of the ranks of positive differences.
        count: (pairs,) N, the number of non-zero differences.
        ties: (pairs,) sum of t^3 - t over groups of ties.
    """
    from scipy.stats import norm

    variance = count * (count + 1) * (2 * count + 1) / 24 - ties / 48
    return np.asarray(2 * norm.sf(np.abs(positive_sum - count * (count + 1) / 4) / np.sqrt(variance)))


def _bounds_of_tied_ranks(ascending: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return, for each element of the sorted rows, the indices of the first and the last element equal to it."""
    indices = np.arange(ascending.shape[1])
    edge = np.ones((len(ascending), 1), dtype=bool)
    new = np.diff(ascending, axis=1) != 0
    # fill the start of each tie group forward and its end backward
    low = np.maximum.accumulate(np.where(np.hstack([edge, new]), indices, 0), axis=1)
    high = np.where(np.hstack([new, edge]), indices, indices[-1])
    return low, np.minimum.accumulate(high[:, ::-1], axis=1)[:, ::-1]
