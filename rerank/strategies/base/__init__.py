"""The strategy protocol. A plan is a generator that yields windows, receives their orders and returns the ranking."""

from __future__ import annotations

from typing import Protocol

from rerank.errors import UsageError
from rerank.types import Plan, Ranking

#: Papers use up to 20 passes. A larger number is a mistake, and a run would never end.
_MAX_PASSES = 1000


def check_number_of_passes(passes: int) -> None:
    """Check the number of passes of a strategy that repeats itself.

    Raises:
        UsageError: The number is below 1, or so large that a run would not end.
    """
    if not 1 <= passes <= _MAX_PASSES:
        raise UsageError(f"{passes} passes", expected=f"1 to {_MAX_PASSES}")


class Strategy(Protocol):
    """A strategy decides which windows of a ranking are judged and combines their orders.

    Each strategy is a frozen dataclass whose fields are its options. It does no I/O and no batching.
    """

    def __call__(self, ranking: Ranking) -> Plan:
        """Return a plan for one ranking; no windows are yielded for fewer than two documents."""

    def calls(self, n: int) -> int:
        """Return the maximum number of windows for a list of ``n`` documents."""
