"""The sign test of every two systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.evaluation.significance.base import ByPValue, Floats, bounded, differences


@dataclass(frozen=True)
class Sign(ByPValue):
    """Of the topics on which two systems differ, each is a fair coin: exact binomial, two-sided.

    With w wins and l losses, p = 2 P(X <= min(w, l)) for X of w + l coins; ties are left out. Source: Arbuthnot 1710;
    Conover, Practical nonparametric statistics, section 3.4.
    """

    title: ClassVar[str] = "sign test, ties dropped"

    def p_values(self, scores: Floats) -> Floats:
        """See `PairTest`."""
        from scipy.stats import binom

        parts = []
        for d in differences(scores):
            wins, losses = (d > 0).sum(axis=0), (d < 0).sum(axis=0)
            parts.append(2 * binom.cdf(np.minimum(wins, losses), wins + losses, 0.5))
        return bounded(np.concatenate(parts))

    def resolution(self, topics: int) -> float:
        """All topics won: 2 of the 2^n outcomes."""
        return float(min(1.0, 2.0 ** (1 - topics)))
