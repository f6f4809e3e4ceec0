"""The strategy protocol. A plan is a generator that yields windows, receives their orders and returns the ranking."""

from __future__ import annotations

from typing import Protocol

from rerank.errors import UsageError
from rerank.types import Plan, Ranking

#: Papers use up to 20 passes. A number above this limit is a mistake, and the run would take too long.
_MAX_PASSES = 1000


def check_number_of_passes(passes: int) -> None:
    """Check the number of passes of a strategy that repeats itself.

    Raises:
        UsageError: The number is below 1 or above 1000.
    """
    if not 1 <= passes <= _MAX_PASSES:
        raise UsageError(f"The number of passes is {passes}", expected=f"1 to {_MAX_PASSES}")


class Strategy(Protocol):
    """A strategy decides which windows of a ranking are judged and combines their orders.

    Each strategy is a frozen dataclass whose fields are its options. It does no I/O and no batching.
    """

    def __call__(self, ranking: Ranking) -> Plan:
        """Return a plan (a generator of windows) for one ranking; it yields none for fewer than two documents."""

    def calls(self, n: int) -> int:
        """Return the maximum number of windows for a list of ``n`` documents."""
