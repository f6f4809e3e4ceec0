"""Judging order Move-to-Front over all topics at once, so that topics compete for the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import RandomGenerator, WalkAcross
from rerank.adjudication.orders.mtf import Mtf, move_to_front_judging_order
from rerank.adjudication.pools import PooledTopic


@dataclass(frozen=True, kw_only=True)
class MtfGlobal(Mtf):
    """Move-to-Front (`mtf`) with one budget for all topics and a separate priority for each run of each topic.

    Topics with many relevant documents receive more of the budget. Source: Cormack, Palmer and Clarke, SIGIR 1998.
    """

    title: ClassVar[str] = "Move-to-Front over all topics"

    def across(self, topics: Sequence[PooledTopic], rng: RandomGenerator) -> WalkAcross:
        """Yield the documents of all topics in judging order."""
        return move_to_front_judging_order(topics, rng)
