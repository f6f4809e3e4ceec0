"""The paired randomisation test of every two systems: signs of differences flipped by chance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import ByChance, Floats, bounded, differences

#: Flips that are tried at a time.
_STEP = 1000
#: Sums nearer than this are equal.
_EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class Permutation(ByChance):
    """If two systems were the same, each topic's difference could as well have the other sign.

    p = (1 + #{|mean of flipped| >= |mean|}) / (B + 1); where all 2^n flips are no more than B, they are all tried, and
    p = # / 2^n. All pairs see the same flips. Source: Fisher 1935; Smucker, Allan and Carterette, CIKM 2007.
    """

    title: ClassVar[str] = "paired randomisation"

    def p_values(self, scores: Floats) -> Floats:
        """See `PairTest`."""
        return bounded(np.concatenate([self._reached(d) for d in differences(scores)]))

    def resolution(self, topics: int) -> float:
        """See `PairTest`."""
        return min(1.0, 2.0 ** (1 - topics)) if self._exact(topics) else super().resolution(topics)

    def _exact(self, topics: int) -> bool:
        return topics < 63 and 2**topics <= self.permutations

    def _reached(self, d: Floats) -> Floats:
        count, pairs = d.shape
        sizes = np.abs(d.sum(axis=0)) - _EPSILON
        reached = np.zeros(pairs)
        step = max(1, min(_STEP, (1 << 24) // pairs))
        if self._exact(count):
            flips = np.array(list(product((1.0, -1.0), repeat=count)))
            for start in range(0, len(flips), step):
                reached += (np.abs(flips[start : start + step] @ d) >= sizes).sum(axis=0)
            return np.asarray(reached / len(flips))
        chance = np.random.default_rng(self.seed)
        for start in range(0, self.permutations, step):
            some = min(step, self.permutations - start)
            signs = chance.integers(0, 2, (some, count)) * 2.0 - 1.0
            reached += (np.abs(signs @ d) >= sizes).sum(axis=0)
        return np.asarray((reached + 1) / (self.permutations + 1))
