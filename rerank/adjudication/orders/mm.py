"""MaxMean: the run with the highest rate of relevant documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import RandomGenerator
from rerank.adjudication.orders.base.bandit import BanditArms, ForgettingBandit
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class Mm(ForgettingBandit):
    """value(s) = (1 + relevant) / (2 + judged) over the documents of the run. Source: Losada et al., IP&M 2017."""

    title: ClassVar[str] = "MaxMean"

    def values(self, arms: BanditArms, rng: RandomGenerator) -> Floats:
        """Return the mean of each run, (runs,)."""
        return arms.means
