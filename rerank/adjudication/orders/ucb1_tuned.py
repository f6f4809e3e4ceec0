"""UCB1-tuned over the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import Chance
from rerank.adjudication.orders.base.bandit import Arms, Bandit
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class Ucb1Tuned(Bandit):
    """value(s) = m + sqrt(ln t / n min(1/4, m - m^2 + sqrt(2 ln t / n))); m of n judged in the run, t judged at all.

    A run of which nothing is judged comes first. Source: Auer, Cesa-Bianchi and Fischer, Finite-time analysis of the
    multiarmed bandit problem, 2002; for pools Losada et al., IP&M 2017.
    """

    title: ClassVar[str] = "UCB1-tuned"

    def values(self, arms: Arms, chance: Chance) -> Floats:
        """See `Bandit`."""
        judged = arms.hits + arms.misses
        n, spread = np.maximum(judged, 1), np.log(max(arms.plays, 1))
        mean = arms.hits / n
        variance = mean - mean**2 + np.sqrt(2 * spread / n)
        return np.where(judged > 0, mean + np.sqrt(spread / n * np.minimum(0.25, variance)), np.inf)
