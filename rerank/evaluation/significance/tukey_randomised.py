"""Randomised Tukey HSD: every difference against the largest that chance makes among all systems."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import ByChance, Floats, bounded, mean_differences

#: Numbers that a thread permutes at a time.
_ROOM = 1 << 20
_EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True)
class TukeyRandomised(ByChance):
    """If all systems were the same, each topic's scores could belong to any of them.

    B times the scores of every topic are permuted over the systems; q* is the largest mean of a system less the least.
    p = (1 + #{q* >= |d|}) / (B + 1). It holds for all pairs together, so it needs no correction. Source: Carterette,
    TOIS 2012, section 4.3; Sakai, Laboratory experiments in information retrieval, 2018. A seed gives the same on any
    number of cores.
    """

    title: ClassVar[str] = "randomised Tukey HSD"
    family_wise: ClassVar[bool] = True

    permutations: int = 100_000

    def p_values(self, scores: Floats) -> Floats:
        """See `PairTest`."""
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            largest = np.concatenate(list(threads.map(_ranges, *zip(*self._parts(scores), strict=True))))
        largest.sort()
        below = np.searchsorted(largest, np.abs(mean_differences(scores)) - _EPSILON, side="left")
        return bounded((1 + len(largest) - below) / (len(largest) + 1))

    def _parts(self, scores: Floats) -> Iterator[tuple[Floats, int, np.random.SeedSequence]]:
        """What each task permutes, how often, and its chance."""
        step = max(1, _ROOM // max(1, scores.size))
        sizes = [min(step, self.permutations - start) for start in range(0, self.permutations, step)]
        for size, seed in zip(sizes, np.random.SeedSequence(self.seed).spawn(len(sizes)), strict=True):
            yield scores, size, seed


def _ranges(scores: Floats, count: int, seed: np.random.SeedSequence) -> Floats:
    """(count,) largest less smallest mean of permuted scores."""
    permuted = np.repeat(scores[None], count, axis=0)
    np.random.default_rng(seed).permuted(permuted, axis=2, out=permuted)
    means = permuted.mean(axis=1)
    return np.asarray(means.max(axis=1) - means.min(axis=1))
