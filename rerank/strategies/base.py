"""The strategy protocol, and what several strategies share: spans of windows, group winners and preference graphs.

A plan is a generator that yields windows, receives their orders and returns the ranking.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

from rerank.errors import UsageError, ensure
from rerank.types import Document, Order, Plan, Query, Ranking, Window

#: Papers use up to 20 passes. A number above this limit is a mistake, and the run would take too long.
_MAX_PASSES = 1000


def check_passes(passes: int) -> None:
    """Check the number of passes of a strategy that repeats itself."""
    ensure(1 <= passes <= _MAX_PASSES, f"The number of passes is {passes}", expected=f"1 to {_MAX_PASSES}")


class Strategy(Protocol):
    """A strategy decides which windows of a ranking are judged and combines their orders.

    Each strategy is a frozen dataclass whose fields are its options. It does no I/O and no batching.
    """

    def __call__(self, ranking: Ranking) -> Plan:
        """Return a plan (a generator of windows) for one ranking; it yields none for fewer than two documents."""

    def calls(self, n: int) -> int:
        """Return the maximum number of windows for a list of ``n`` documents."""


def window_spans(n: int, size: int, stride: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each window of one pass over positions ``first .. n - 1``, from the tail to the head.

    The spans cover every position, and the last span yielded always starts at ``first``. If a single position would
    remain, its span also includes the next position, since a single document cannot be ordered.
    """
    end = n
    while end - first > 1:
        start = max(first, end - size)
        yield start, end
        if start == first:
            return
        # At least two positions must remain, so that no window has a single document.
        end = max(end - stride, first + 2)


def count_windows(n: int, size: int, stride: int) -> int:
    """Return the number of windows of one pass over n positions: 1 + ceil(max(0, n - size) / stride), or 0 if n < 2."""
    return 0 if n < 2 else 1 + math.ceil(max(0, n - size) / stride)


def check_window(size: int, stride: int) -> None:
    """Check that a window can reorder documents and that the stride leaves no gaps."""
    ensure(size >= 2, f"The window size is {size}", expected="at least 2 documents")
    if not 0 < stride <= size:
        raise UsageError(
            f"The stride is {stride}, and the window size is {size}",
            expected="0 < stride <= window size",
            remedy=f"Use --stride {size // 2}; a stride above the window size skips documents between windows",
        )


#: Generator that yields windows, receives their orders, and returns the position of each group's winner.
WinnersPlan = Generator[list[Window], list[Order], list[int]]


def choose_winners(query: Query, groups: Sequence[Sequence[Document]], *, size: int, both_orders: bool) -> WinnersPlan:
    """Find the best document of each group by windows, and return its position in the group.

    The next windows of all groups are yielded together. A group that is larger than a window is processed from its
    head: the winner of each window also takes part in the next window.

    Groups have at least two documents, of which the first wins unless another one is chosen. With ``both_orders``,
    every window is judged a second time with its documents in reverse order, and a document other than the first wins
    only if it is chosen both times (Qin et al., arXiv 2306.17563, section 3.1, for pairs).
    """
    winners = [0] * len(groups)
    for start in range(1, max(map(len, groups), default=0), size - 1):
        active = [index for index, group in enumerate(groups) if start < len(group)]
        # Each window contains the current winner and the next size - 1 documents of its group.
        shown = [(winners[index], *range(start, min(start + size - 1, len(groups[index])))) for index in active]
        windows = [
            Window(query, tuple(groups[index][position] for position in positions[::step]), best=1)
            for step in ((1, -1) if both_orders else (1,))
            for index, positions in zip(active, shown, strict=True)
        ]
        orders = yield windows
        # The first half of the orders belongs to the original windows, the second half to the reversed windows.
        for index, positions, order in zip(active, shown, orders, strict=False):
            winners[index] = positions[order[0]]
        for index, positions, order in zip(active, shown, orders[len(active) :], strict=False):
            if positions[::-1][order[0]] != winners[index]:  # the choice depends on the order: a tie
                winners[index] = positions[0]
    return winners


def count_choice_windows(count: int, *, size: int, both_orders: bool) -> int:
    """Return the number of windows to find the best of ``count`` items: ceil((count - 1) / (size - 1)) per order."""
    return -(-(count - 1) // (size - 1)) * (1 + both_orders)


def check_choice(size: int, top_k: int) -> None:
    """Check the window size and the number of documents to rank."""
    ensure(size >= 2, f"The window size is {size}", expected="at least 2 documents")
    ensure(top_k >= 1, f"top_k is {top_k}", expected="at least 1")


class PreferenceGraph:
    """A graph with an edge from each document to every document known to be worse, directly or by transitivity.

    Judges may contradict themselves. The documents of a cycle of preferences form a tier: they are tied. Source: the
    revealed graph of Agrawal, Nguyen and Kiela 2026, arXiv 2602.05448 (BlitzRank), sections 2.2 and 2.3.

    A set of documents is an integer with one bit per position, so that a hundred documents take a few machine words.
    """

    def __init__(self, n: int) -> None:
        self.above = [0] * n  # the positions that are known to be better; a document in a cycle is in its own set
        self.below = [0] * n  # the positions that are known to be worse
        self._won = [0] * n  # the positions that a document was ranked above in some window
        self._lost = [0] * n

    def add_order(self, positions: Sequence[int], depth: int) -> None:
        """Add the preferences of a window of which the judge ranked the first ``depth`` documents, at least 1."""
        ranked, others = positions[:depth], positions[depth:]
        # Neighbours suffice, since all other pairs follow by transitivity.
        for better, worse in pairwise(ranked):
            self._add_preference(better, worse)
        for worse in others:
            self._add_preference(ranked[-1], worse)
        seen, unseen = 0, sum(1 << position for position in positions)
        for position in ranked:
            unseen ^= 1 << position
            self._won[position] |= unseen
            self._lost[position] |= seen
            seen |= 1 << position
        for position in others:
            self._lost[position] |= seen

    def tier(self, position: int) -> int:
        """Return the set of documents that are tied with a document, including itself."""
        return self.above[position] & self.below[position] | 1 << position

    def count_better(self, position: int) -> int:
        """Return the number of documents known to be better, without ties: the in-reach of the paper's figure 3."""
        return (self.above[position] & ~self.tier(position)).bit_count()

    def count_worse(self, position: int) -> int:
        """Return the number of documents known to be worse, without ties."""
        return (self.below[position] & ~self.tier(position)).bit_count()

    def count_net_wins_in_tier(self, position: int) -> int:
        """Return how many tied documents a document was ranked above, minus the number that it was ranked below.

        This is the Copeland score within the tier. Tied documents that it was ranked both above and below cancel out.
        """
        tier = self.tier(position)
        return (self._won[position] & tier).bit_count() - (self._lost[position] & tier).bit_count()

    def is_resolved(self, position: int) -> bool:
        return (self.above[position] | self.below[position] | 1 << position).bit_count() == len(self.above)

    def _add_preference(self, better: int, worse: int) -> None:
        """Add an edge and all edges that follow by transitivity."""
        if self.below[better] >> worse & 1:
            return
        upper = self.above[better] | 1 << better
        lower = self.below[worse] | 1 << worse
        for position in range(len(self.above)):
            if upper >> position & 1:
                self.below[position] |= lower
            if lower >> position & 1:
                self.above[position] |= upper
