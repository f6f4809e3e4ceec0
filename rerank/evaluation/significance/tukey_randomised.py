"""Randomised Tukey HSD. It compares every difference of means with the largest difference after random permutation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import Floats, ResamplingTest, clip_p_values, mean_paired_differences

#: Largest number of scores that a thread permutes in one task.
_BATCH_SCORES = 1 << 20
_EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True)
class TukeyRandomised(ResamplingTest):
    """Randomised Tukey HSD: under the null hypothesis, the scores of a topic could belong to any system.

    The scores of every topic are permuted over the systems B times. q* is the largest minus the smallest system mean
    after a permutation. For a difference d between two means, p = (1 + #{q* >= |d|}) / (B + 1), where #{...} counts
    permutations. The test controls the family-wise error, so it needs no correction. Results depend on the seed, but
    not on the number of threads. Source: Carterette, TOIS 2012, section 4.3; Sakai, Laboratory experiments in
    information retrieval, 2018.
    """

    title: ClassVar[str] = "randomised Tukey HSD"
    family_wise: ClassVar[bool] = True

    permutations: int = 100_000

    def p_values(self, scores: Floats) -> Floats:
        """Return the (pairs,) p-values."""
        largest = self._sorted_ranges(scores)
        # one binary search per pair counts the values of q* below |d|
        below = np.searchsorted(largest, np.abs(mean_paired_differences(scores)) - _EPSILON, side="left")
        return clip_p_values((1 + len(largest) - below) / (len(largest) + 1))

    def half_width(self, scores: Floats, alpha: float) -> float:
        """Return the 1 - alpha quantile of q*."""
        largest = self._sorted_ranges(scores)
        return float(largest[min(len(largest) - 1, int(np.ceil((1 - alpha) * (len(largest) + 1))) - 1)])

    def _sorted_ranges(self, scores: Floats) -> Floats:
        """Return the (B,) values of q* in ascending order."""
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            ranges = threads.map(_tukey_ranges_of_permuted_means, *zip(*self._parts(scores), strict=True))
            return np.sort(np.concatenate(list(ranges)))

    def _parts(self, scores: Floats) -> Iterator[tuple[Floats, int, np.random.SeedSequence]]:
        """Yield the arguments of each parallel task: the scores, its number of permutations and its seed."""
        step = max(1, _BATCH_SCORES // max(1, scores.size))
        sizes = [min(step, self.permutations - start) for start in range(0, self.permutations, step)]
        # one seed per task makes results independent of the number of threads
        for size, seed in zip(sizes, np.random.SeedSequence(self.seed).spawn(len(sizes)), strict=True):
            yield scores, size, seed


def _tukey_ranges_of_permuted_means(scores: Floats, count: int, seed: np.random.SeedSequence) -> Floats:
    """Permute the scores ``count`` times. Return an array of shape (count,): largest minus smallest system mean."""
    # (count, topics, systems), permuted independently within each topic
    permuted = np.repeat(scores[None], count, axis=0)
    np.random.default_rng(seed).permuted(permuted, axis=2, out=permuted)
    means = permuted.mean(axis=1)
    return np.asarray(means.max(axis=1) - means.min(axis=1))
