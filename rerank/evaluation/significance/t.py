"""The paired t-test for all pairs of systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import (
    SMALLEST,
    Floats,
    SinglePairTest,
    clip_p_values,
    iterate_paired_differences,
)


@dataclass(frozen=True)
class T(SinglePairTest):
    """Paired t-test on the differences d: t = mean(d) / (sd(d) / sqrt(n)) with n - 1 degrees of freedom.

    If all differences are equal and not 0, their variance cannot be estimated and p is 1. Source: Student 1908.
    """

    title: ClassVar[str] = "paired t"

    def p_values(self, scores: Floats) -> Floats:
        """Return the two-sided (pairs,) p-values."""
        from scipy.stats import t

        count = len(scores)
        if count < 2:
            return np.ones(scores.shape[1] * (scores.shape[1] - 1) // 2)
        p_values = []
        for d in iterate_paired_differences(scores):
            spread = d.std(axis=0, ddof=1)
            spread[d.min(axis=0) == d.max(axis=0)] = 0.0  # rounding in the mean must not look like variance
            # t = mean / (s / sqrt(n)); sf is the upper tail, doubled for a two-sided test
            with np.errstate(divide="ignore", invalid="ignore"):
                p = 2 * t.sf(np.abs(d.mean(axis=0)) / (spread / np.sqrt(count)), count - 1)
            p_values.append(np.where(spread > 0, np.maximum(p, SMALLEST), 1.0))
        return clip_p_values(np.concatenate(p_values))
