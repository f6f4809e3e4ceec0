"""MaxMean: the run that was right most often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import Chance
from rerank.adjudication.orders.base.bandit import Arms, Forgetful
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class Mm(Forgetful):
    """value(s) = (1 + relevant) / (2 + judged) among the documents of the run. Source: Losada et al., IP&M 2017."""

    title: ClassVar[str] = "MaxMean"

    def values(self, arms: Arms, chance: Chance) -> Floats:
        """See `Bandit`."""
        return arms.means
