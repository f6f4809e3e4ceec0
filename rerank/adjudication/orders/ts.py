"""Judging order by Thompson sampling: follow the run with the largest randomly drawn value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import RandomGenerator
from rerank.adjudication.orders.base.bandit import BanditArms, ForgettingBandit
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class Ts(ForgettingBandit):
    """Thompson sampling: before each judgment, draw the value of each run from Beta(1 + relevant, 1 + not relevant).

    The next document of the run with the largest value is judged. Source: Losada et al., IP&M 2017.
    """

    title: ClassVar[str] = "Thompson sampling"

    def values(self, arms: BanditArms, rng: RandomGenerator) -> Floats:
        """Return an array of shape (runs,): one random value per run, drawn from its beta distribution."""
        # (runs,) samples from the posterior of the rate of relevant documents, given a uniform prior
        return rng.beta(1 + arms.hits, 1 + arms.misses)
