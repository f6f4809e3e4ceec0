"""The best run but for a chance that falls with time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import Chance
from rerank.adjudication.orders.base.bandit import Arms, Bandit
from rerank.adjudication.pools import Floats
from rerank.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EpsNGreedy(Bandit):
    """The run of the largest mean, as in `mm`; with a chance of min(1, c K / (d^2 t)) any of the K runs, at step t.

    Source: Auer, Cesa-Bianchi and Fischer 2002, figure 3; for pools Losada et al., IP&M 2017.

    Attributes:
        c: The larger, the longer it explores.
        d: The smaller, the longer it explores; above 0 and at most 1.
    """

    title: ClassVar[str] = "epsilon-n-greedy"

    c: float = 0.01
    d: float = 0.1

    def __post_init__(self) -> None:
        """Check the options."""
        if self.c < 0 or not 0 < self.d <= 1:
            raise UsageError(f"c={self.c}, d={self.d}", expected="c from 0, d above 0 and at most 1")

    def values(self, arms: Arms, chance: Chance) -> Floats:
        """See `Bandit`."""
        many = len(arms.hits)
        explores = chance.random() < self.c * many / (self.d**2 * (arms.plays + 1))
        return np.zeros(many) if explores else arms.means
