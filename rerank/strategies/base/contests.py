"""Contests: who is the best of a few documents, asked in windows. What sorting by choices is made of.

Knows windows and positions, not what is sorted with them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from rerank.errors import UsageError
from rerank.types import Document, Order, Query, Window

#: Asks for windows and ends with the position of each group's winner.
Contests = Generator[list[Window], list[Order], list[int]]


def contests(query: Query, groups: Sequence[Sequence[Document]], *, size: int, both_orders: bool = False) -> Contests:
    """The best document of each group, by its position; what the groups ask next is asked together.

    A group that is longer than a window is gone through from its head: who wins a window meets the next ones.

    Args:
        query: The query.
        groups: At least two documents each; the first holds its place unless another is chosen over it.
        size: Documents in a window, at most.
        both_orders: Ask about every window a second time with its documents turned around. Another than the first is
            then the winner only if it is chosen both times (Qin et al., arXiv 2306.17563, section 3.1, for pairs).
    """
    winners = [0] * len(groups)
    for start in range(1, max(map(len, groups), default=0), size - 1):
        still = [at for at, group in enumerate(groups) if start < len(group)]
        shown = [(winners[at], *range(start, min(start + size - 1, len(groups[at])))) for at in still]
        asked = [_window(query, groups[at], positions) for at, positions in zip(still, shown, strict=True)]
        if both_orders:
            asked += [_window(query, groups[at], positions[::-1]) for at, positions in zip(still, shown, strict=True)]
        orders = yield asked
        for at, positions, order in zip(still, shown, orders, strict=False):
            winners[at] = positions[order[0]]
        for at, positions, order in zip(still, shown, orders[len(still) :], strict=False):
            if positions[::-1][order[0]] != winners[at]:
                winners[at] = positions[0]
    return winners


def contest_windows(count: int, *, size: int, both_orders: bool = False) -> int:
    """How many windows the best of ``count`` documents takes: ceil((count - 1) / (size - 1)), twice for both orders."""
    return -(-(count - 1) // (size - 1)) * (1 + both_orders)


def check_choice(size: int, top_k: int) -> None:
    """Refuse what cannot be sorted by choosing the best.

    Raises:
        UsageError: ``size < 2`` or ``top_k < 1``.
    """
    if size < 2:
        raise UsageError(f"Window size {size}", expected="at least 2 documents, since one has no order")
    if top_k < 1:
        raise UsageError(f"The best {top_k}", expected="at least 1")


def _window(query: Query, group: Sequence[Document], positions: Sequence[int]) -> Window:
    return Window(query, tuple(group[at] for at in positions), best=1)
