"""Move-to-Front over all topics at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base import Chance, WalkAcross
from rerank.adjudication.orders.mtf import Mtf, move_to_front
from rerank.adjudication.pools import Topic


@dataclass(frozen=True, kw_only=True)
class MtfGlobal(Mtf):
    """As `mtf`, with one budget for all topics and one priority for each run of each topic.

    Topics with many relevant documents get more of the budget. Source: Cormack, Palmer and Clarke, SIGIR 1998.
    """

    title: ClassVar[str] = "Move-to-Front over all topics"

    def across(self, topics: Sequence[Topic], chance: Chance) -> WalkAcross:
        """See `SupportsAcross`."""
        return move_to_front(topics, chance)
