"""MaxMean of a bandit that is not stationary: the run that was right last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.mm import Mm


@dataclass(frozen=True, kw_only=True)
class MmNs(Mm):
    """As `mm`, but a run's older outcomes are forgotten; with a rate of 1 all but the last. Losada et al. 2017."""

    title: ClassVar[str] = "MaxMean, non-stationary"

    rate: float = 1.0
