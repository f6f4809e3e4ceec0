"""The sign test for all pairs of systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import Floats, SinglePairTest, clip_p_values, iterate_paired_differences


@dataclass(frozen=True)
class Sign(SinglePairTest):
    """Sign test: an exact, two-sided binomial test of wins against losses.

    With w wins and l losses, p = 2 P(X <= min(w, l)) for X ~ Binomial(w + l, 1/2); ties are dropped. Source: Arbuthnot
    1710; Conover, Practical nonparametric statistics, section 3.4.
    """

    title: ClassVar[str] = "sign test, ties dropped"

    def p_values(self, scores: Floats) -> Floats:
        """Return the two-sided (pairs,) p-values."""
        from scipy.stats import binom

        p_values = []
        for d in iterate_paired_differences(scores):
            # (pairs,) each
            wins, losses = (d > 0).sum(axis=0), (d < 0).sum(axis=0)
            p_values.append(2 * binom.cdf(np.minimum(wins, losses), wins + losses, 0.5))
        return clip_p_values(np.concatenate(p_values))

    def resolution(self, topics: int) -> float:
        """Return 2 / 2^n, the p-value if one system wins on all n topics."""
        return float(min(1.0, 2.0 ** (1 - topics)))
