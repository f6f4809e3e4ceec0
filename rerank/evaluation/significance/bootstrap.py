"""The paired bootstrap test of every two systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import ByChance, Floats, bounded, differences

_STEP = 1000
_EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class Bootstrap(ByChance):
    """Topics are drawn with replacement from differences that were shifted to a mean of 0.

    p = (1 + #{|t*| >= |t|}) / (B + 1), t and t* being the studentised means mean / (sd / sqrt(n)) of the sample and of
    a draw. Source: Efron and Tibshirani 1993, algorithm 16.2; Sakai, SIGIR 2006, figure 1. Differences that are all the
    same leave nothing to draw from: p is 1. A draw of one topic n times has no spread and counts as extreme, which
    matters for a handful of topics only. All pairs see the same draws.
    """

    title: ClassVar[str] = "paired bootstrap"

    def p_values(self, scores: Floats) -> Floats:
        """See `PairTest`."""
        return bounded(np.concatenate([self._reached(d) for d in differences(scores)]))

    def _reached(self, d: Floats) -> Floats:
        count, pairs = d.shape
        constant = d.min(axis=0) == d.max(axis=0)
        if count < 2 or constant.all():
            return np.ones(pairs)
        shifted = d - d.mean(axis=0)
        squares = shifted**2
        observed = np.abs(_studentised(d.mean(axis=0), squares.mean(axis=0), count)) - _EPSILON
        chance = np.random.default_rng(self.seed)
        reached = np.zeros(pairs)
        step = max(1, min(_STEP, (1 << 23) // pairs))
        for start in range(0, self.permutations, step):
            some = min(step, self.permutations - start)
            drawn = chance.multinomial(count, np.full(count, 1 / count), size=some) / count
            means = drawn @ shifted
            variances = np.maximum(drawn @ squares - means**2, 0.0)
            reached += (np.abs(_studentised(means, variances, count)) >= observed).sum(axis=0)
        return np.where(constant, 1.0, (reached + 1) / (self.permutations + 1))


def _studentised(mean: Floats, variance: Floats, count: int) -> Floats:
    """The mean over its standard error, from the mean of squared deviations; 0 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = mean / np.sqrt(variance / (count - 1))
    return np.asarray(np.nan_to_num(studentised, nan=0.0, posinf=np.inf, neginf=-np.inf))
