"""What a strategy is: a generator that asks for windows to be judged. Knows no model, no prompt, no batching."""

from __future__ import annotations

from typing import Protocol

from rerank.types import Plan, Ranking


class Strategy(Protocol):
    """Decides which windows of a ranking are judged, and what their orders make of it.

    Each strategy is a frozen dataclass whose fields are its options, called with a ranking.
    """

    def __call__(self, ranking: Ranking) -> Plan:
        """Start a plan for one ranking; lists of 0 or 1 documents ask nothing."""

    def calls(self, n: int) -> int:
        """How many windows a list of ``n`` documents takes."""
