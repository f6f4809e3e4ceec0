"""Judging order by the UCB1-tuned bandit: follow the run with the largest upper confidence bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import RandomGenerator
from rerank.adjudication.orders.base.bandit import BanditArms, BanditOrder
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class Ucb1Tuned(BanditOrder):
    """UCB1-tuned: value(s) = m + sqrt((ln t / n) min(1/4, m - m^2 + sqrt(2 ln t / n))).

    n is the number of judged documents in run s, m is the fraction of them that is relevant, and t is the number of all
    judged documents. A run without judged documents is played first. Source: Auer, Cesa-Bianchi and Fischer,
    Finite-time analysis of the multiarmed bandit problem, 2002; for pools Losada et al., IP&M 2017.
    """

    title: ClassVar[str] = "UCB1-tuned"

    def values(self, arms: BanditArms, rng: RandomGenerator) -> Floats:
        """Return an array of shape (runs,): the upper confidence bound of each run."""
        judged = arms.hits + arms.misses
        n, log_plays = np.maximum(judged, 1), np.log(max(arms.plays, 1))
        mean = arms.hits / n
        # for binary outcomes the sample variance is m - m^2; 1/4 is its upper bound
        variance = mean - mean**2 + np.sqrt(2 * log_plays / n)
        return np.where(judged > 0, mean + np.sqrt(log_plays / n * np.minimum(0.25, variance)), np.inf)
