"""Thompson sampling over the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import Chance
from rerank.adjudication.orders.base.bandit import Arms, Forgetful
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class Ts(Forgetful):
    """value(s) is drawn from Beta(1 + relevant, 1 + not relevant) of the run. Source: Losada et al., IP&M 2017."""

    title: ClassVar[str] = "Thompson sampling"

    def values(self, arms: Arms, chance: Chance) -> Floats:
        """See `Bandit`."""
        return chance.beta(1 + arms.hits, 1 + arms.misses)
