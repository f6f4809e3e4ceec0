"""Wilcoxon's signed-rank test of every two systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rerank.evaluation.significance.base import DECIMALS, SMALLEST, ByPValue, Floats, bounded, differences
from rerank.evaluation.significance.base.paired_tests import EXACT_UP_TO, exact_signed_rank


@dataclass(frozen=True, kw_only=True)
class Wilcoxon(ByPValue):
    """Zero differences are dropped (Wilcoxon's own rule), equal sizes share their mean rank.

    With more than 25 differences left it is the normal approximation, z = (W+ - N(N+1)/4) / s with N of them and
    s^2 = N(N+1)(2N+1)/24 - sum(t^3 - t)/48 over groups of t ties, no continuity correction; with fewer it is exact,
    ties included. Source: Wilcoxon 1945; Pratt and Gibbons, Concepts of nonparametric theory, 1981, chapter 3.

    Attributes:
        decimals: Round differences to so many first. As they are, 0.3 - 0.2 and 0.2 - 0.1 are no tie, which is what
            SciPy and published counts rest on. What is 0 in 12 decimals is 0 either way.
    """

    title: ClassVar[str] = "Wilcoxon signed-rank, zeros dropped"

    decimals: int | None = None

    def p_values(self, scores: Floats) -> Floats:
        """See `PairTest`."""
        return bounded(np.concatenate([_of_some(d) for d in differences(scores, self.decimals)]))

    def resolution(self, topics: int) -> float:
        """All differences of one sign: 2 of the 2^n patterns of signs."""
        return float(min(1.0, 2.0 ** (1 - topics))) if topics <= EXACT_UP_TO else SMALLEST


def _of_some(d: Floats) -> Floats:
    """(pairs,) p-values of (topics, pairs) differences. Ranks and ties come from one sort: studies test thousands."""
    d = np.ascontiguousarray(np.where(np.abs(d) < 10.0**-DECIMALS / 2, 0.0, d).T)
    sizes = np.abs(d)
    order = np.argsort(sizes, axis=1)
    sizes, positive = np.take_along_axis(sizes, order, axis=1), np.take_along_axis(d > 0, order, axis=1)
    low, high = _ends(sizes)
    left = (sizes > 0).sum(axis=1)
    zeros = d.shape[1] - left
    doubled = np.where(sizes > 0, low + high + 2 - 2 * zeros[:, None], 0)  # twice the mid-ranks are whole
    above = np.where(positive, doubled, 0).sum(axis=1)
    few = left <= EXACT_UP_TO
    p = np.empty(len(d))
    rows = zip(doubled[few].tolist(), zeros[few].tolist(), above[few].tolist(), strict=True)
    p[few] = [exact_signed_rank(row[start:], observed) for row, start, observed in rows]
    ties = np.where(sizes > 0, (high - low + 1.0) ** 2 - 1, 0.0)[~few].sum(axis=1)  # t elements of t^2 - 1: t^3 - t
    p[~few] = _approximate(above[~few] / 2, left[~few], ties)
    return p


def _approximate(above: Floats, left: Floats, ties: Floats) -> Floats:
    """The normal approximation, from W+, N and the sum of t^3 - t."""
    from scipy.stats import norm

    variance = left * (left + 1) * (2 * left + 1) / 24 - ties / 48
    return np.asarray(2 * norm.sf(np.abs(above - left * (left + 1) / 4) / np.sqrt(variance)))


def _ends(ascending: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The places, from 0, of the first and the last element that equals each one, in rows that ascend."""
    places = np.arange(ascending.shape[1])
    edge = np.ones((len(ascending), 1), dtype=bool)
    new = np.diff(ascending, axis=1) != 0
    low = np.maximum.accumulate(np.where(np.hstack([edge, new]), places, 0), axis=1)
    high = np.where(np.hstack([new, edge]), places, places[-1])
    return low, np.minimum.accumulate(high[:, ::-1], axis=1)[:, ::-1]
