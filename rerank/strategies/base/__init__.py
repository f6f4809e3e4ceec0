"""The strategy protocol. A plan is a generator that yields windows, receives their orders and returns the ranking."""

from __future__ import annotations

from typing import Protocol

from rerank.types import Plan, Ranking


class Strategy(Protocol):
    """A strategy decides which windows of a ranking are judged and combines their orders.

    Each strategy is a frozen dataclass whose fields are its options. It does no I/O and no batching.
    """

    def __call__(self, ranking: Ranking) -> Plan:
        """Return a plan for one ranking; no windows are yielded for fewer than two documents."""

    def calls(self, n: int) -> int:
        """Return the maximum number of windows for a list of ``n`` documents."""
