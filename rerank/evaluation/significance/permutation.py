"""The paired randomisation test for all pairs of systems. It flips the signs of the differences at random."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import Floats, ResamplingTest, clip_p_values, iterate_paired_differences

#: Number of sign patterns per batch.
_STEP = 1000
#: Sums that differ by less than this are considered equal.
_EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class Permutation(ResamplingTest):
    """Paired randomisation test: under the null hypothesis, the difference on each topic could have either sign.

    Each of B draws assigns random signs to the differences. Let c be the number of draws whose absolute mean is at
    least the observed absolute mean; p = (1 + c) / (B + 1). If there are at most B sign patterns (2^n <= B), each is
    used once and p = c / 2^n. All pairs use the same signs. Source: Fisher 1935; Smucker, Allan and Carterette, CIKM
    2007.
    """

    title: ClassVar[str] = "paired randomisation"

    def p_values(self, scores: Floats) -> Floats:
        """Return the two-sided (pairs,) p-values."""
        return clip_p_values(np.concatenate([self._p_values_of(d) for d in iterate_paired_differences(scores)]))

    def resolution(self, topics: int) -> float:
        """Return 2 / 2^n if all sign patterns are enumerated, otherwise 1 / (B + 1)."""
        return min(1.0, 2.0 ** (1 - topics)) if self.enumerates(topics) else super().resolution(topics)

    def _p_values_of(self, d: Floats) -> Floats:
        """Return the p-values of a batch of pairs from their (topics, pairs) differences."""
        count, pairs = d.shape
        # comparing sums is equivalent to comparing means
        observed = np.abs(d.sum(axis=0)) - _EPSILON
        extreme = np.zeros(pairs)
        step = max(1, min(_STEP, (1 << 24) // pairs))
        if self.enumerates(count):
            # (2^n, topics) all sign patterns, including the observed one
            flips = np.array(list(product((1.0, -1.0), repeat=count)))
            for start in range(0, len(flips), step):
                extreme += (np.abs(flips[start : start + step] @ d) >= observed).sum(axis=0)
            return np.asarray(extreme / len(flips))
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.permutations, step):
            batch = min(step, self.permutations - start)
            # (batch, topics), shared by all pairs of this batch of pairs
            signs = rng.integers(0, 2, (batch, count)) * 2.0 - 1.0
            extreme += (np.abs(signs @ d) >= observed).sum(axis=0)
        return np.asarray((extreme + 1) / (self.permutations + 1))
