"""MaxMean bandit: play the run with the highest rate of relevant documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import RandomGenerator
from rerank.adjudication.orders.base.bandit import BanditArms, ForgettingBandit
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class Mm(ForgettingBandit):
    """MaxMean: value(s) = (1 + relevant) / (2 + judged), where both are numbers of documents in run s.

    Source: Losada et al., IP&M 2017.
    """

    title: ClassVar[str] = "MaxMean"

    def values(self, arms: BanditArms, rng: RandomGenerator) -> Floats:
        """Return an array of shape (runs,): the mean of each run."""
        return arms.means
