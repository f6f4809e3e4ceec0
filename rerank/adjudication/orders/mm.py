"""Judging order by the MaxMean bandit: follow the run with the highest rate of relevant documents so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import RandomGenerator
from rerank.adjudication.orders.base.bandit import BanditArms, ForgettingBandit
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class Mm(ForgettingBandit):
    """MaxMean: judge the next document of the run with the largest value (1 + relevant) / (2 + judged).

    Both are numbers of documents of the run.

    Source: Losada et al., IP&M 2017.
    """

    title: ClassVar[str] = "MaxMean"

    def values(self, arms: BanditArms, rng: RandomGenerator) -> Floats:
        """Return an array of shape (runs,): the value of each run."""
        return arms.means
