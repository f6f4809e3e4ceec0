"""The paired bootstrap test for all pairs of systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import Floats, ResamplingTest, clip_p_values, iterate_paired_differences

_STEP = 1000
_EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class Bootstrap(ResamplingTest):
    """Paired bootstrap test: draw topics with replacement, after shifting the differences to a mean of 0.

    p = (1 + #{|t*| >= |t|}) / (B + 1), where #{...} counts draws. t is the studentised mean of the sample,
    mean / (sd / sqrt(n)), and t* is the studentised mean of a draw. Source: Efron and Tibshirani 1993, algorithm 16.2;
    Sakai, SIGIR 2006, figure 1. If all differences are equal, p is 1. A draw that consists of the same topic n times
    has no variance and counts as extreme, which matters only with very few topics. All pairs use the same draws.
    """

    title: ClassVar[str] = "paired bootstrap"

    def p_values(self, scores: Floats) -> Floats:
        """Return the two-sided (pairs,) p-values."""
        return clip_p_values(np.concatenate([self._p_values_of(d) for d in iterate_paired_differences(scores)]))

    def _p_values_of(self, d: Floats) -> Floats:
        """Return the p-values of a batch of pairs from their (topics, pairs) differences."""
        count, pairs = d.shape
        constant = d.min(axis=0) == d.max(axis=0)
        if count < 2 or constant.all():
            return np.ones(pairs)
        # null hypothesis: the distribution of the differences has the same shape, but mean 0
        shifted = d - d.mean(axis=0)
        squares = shifted**2
        # with _EPSILON, draws that are smaller than the sample only by rounding errors count as extreme
        observed = np.abs(_studentised_means(d.mean(axis=0), squares.mean(axis=0), count)) - _EPSILON
        rng = np.random.default_rng(self.seed)
        extreme = np.zeros(pairs)
        # draws are processed in batches to limit the size of the (batch, pairs) arrays
        step = max(1, min(_STEP, (1 << 23) // pairs))
        for start in range(0, self.permutations, step):
            batch = min(step, self.permutations - start)
            # weights: (batch, topics) relative frequency of each topic in a draw; means and variances: (batch, pairs)
            weights = rng.multinomial(count, np.full(count, 1 / count), size=batch) / count
            # Var = E[x^2] - E[x]^2, clipped because rounding may make it negative
            means = weights @ shifted
            variances = np.maximum(weights @ squares - means**2, 0.0)
            extreme += (np.abs(_studentised_means(means, variances, count)) >= observed).sum(axis=0)
        return np.where(constant, 1.0, (extreme + 1) / (self.permutations + 1))


def _studentised_means(mean: Floats, variance: Floats, count: int) -> Floats:
    """Return the mean divided by its standard error; 0 if both are 0. ``variance`` is the mean squared deviation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = mean / np.sqrt(variance / (count - 1))
    return np.asarray(np.nan_to_num(studentised, nan=0.0, posinf=np.inf, neginf=-np.inf))
