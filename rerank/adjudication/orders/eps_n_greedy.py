"""Judging order by an epsilon-greedy bandit: follow the best run so far or, less and less often, a random run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rerank.adjudication.orders.base import RandomGenerator
from rerank.adjudication.orders.base.bandit import BanditArms, BanditOrder
from rerank.adjudication.pools import Floats
from rerank.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EpsNGreedy(BanditOrder):
    """Epsilon-greedy bandit: judge the next document of the best run so far (as in `mm`) or of a random run.

    With K runs, judgment t explores a random run with probability min(1, c K / (d^2 t)).

    Source: Auer, Cesa-Bianchi and Fischer 2002, figure 3; for pools Losada et al., IP&M 2017.

    Attributes:
        c: Exploration factor; larger values explore longer.
        d: Exploration scale, above 0 and at most 1; smaller values explore longer.
    """

    title: ClassVar[str] = "epsilon-n-greedy"

    c: float = 0.01
    d: float = 0.1

    def __post_init__(self) -> None:
        """Check that c is not negative and that d is above 0 and at most 1."""
        if self.c < 0 or not 0 < self.d <= 1:
            raise UsageError(f"c is {self.c} and d is {self.d}", expected="c of 0 or more, d above 0 and at most 1")

    def values(self, arms: BanditArms, rng: RandomGenerator) -> Floats:
        """Return an array of shape (runs,): the means of the runs; when exploring, equal values for a random choice."""
        count = len(arms.hits)
        explores = rng.random() < self.c * count / (self.d**2 * (arms.plays + 1))
        # equal values make the base class choose at random
        return np.zeros(count) if explores else arms.means
