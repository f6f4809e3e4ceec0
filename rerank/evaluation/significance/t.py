"""The paired t-test of every two systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import SMALLEST, ByPValue, Floats, bounded, differences


@dataclass(frozen=True)
class T(ByPValue):
    """Student's t on the differences d: t = mean(d) / (sd(d) / sqrt(n)), n - 1 degrees of freedom.

    Differences that are all the same and not 0 are no sample that t could judge: p is 1. Source: Student 1908.
    """

    title: ClassVar[str] = "paired t"

    def p_values(self, scores: Floats) -> Floats:
        """See `PairTest`."""
        from scipy.stats import t

        count = len(scores)
        if count < 2:
            return np.ones(scores.shape[1] * (scores.shape[1] - 1) // 2)
        parts = []
        for d in differences(scores):
            spread = d.std(axis=0, ddof=1)
            spread[d.min(axis=0) == d.max(axis=0)] = 0.0  # rounding of the mean must not pass for spread
            with np.errstate(divide="ignore", invalid="ignore"):
                p = 2 * t.sf(np.abs(d.mean(axis=0)) / (spread / np.sqrt(count)), count - 1)
            parts.append(np.where(spread > 0, np.maximum(p, SMALLEST), 1.0))
        return bounded(np.concatenate(parts))
