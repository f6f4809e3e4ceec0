"""Find the best document of each of several groups, for the strategies that sort by pairwise or setwise choices."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from rerank.errors import UsageError
from rerank.types import Document, Order, Query, Window

#: Generator that yields windows, receives their orders, and returns the position of each group's winner.
WinnersPlan = Generator[list[Window], list[Order], list[int]]


def choose_group_winners(
    query: Query, groups: Sequence[Sequence[Document]], *, size: int, both_orders: bool
) -> WinnersPlan:
    """Find the best document of each group by windows, and return its position in the group.

    The next windows of all groups are yielded together. A group that is larger than a window is processed from its
    head: the winner of each window also takes part in the next window.

    Args:
        query: The query.
        groups: Groups of at least two documents. The first document of a group wins unless another document is chosen.
        size: Maximum number of documents per window.
        both_orders: Judge every window a second time with its documents in reverse order. A document other than the
            first wins only if it is chosen both times (Qin et al., arXiv 2306.17563, section 3.1, for pairs).
    """
    winners = [0] * len(groups)
    for start in range(1, max(map(len, groups), default=0), size - 1):
        active = [index for index, group in enumerate(groups) if start < len(group)]
        # Each window contains the current winner and the next size - 1 documents of its group.
        shown = [(winners[index], *range(start, min(start + size - 1, len(groups[index])))) for index in active]
        windows = [
            _strategy_group_window(query, groups[index], positions)
            for index, positions in zip(active, shown, strict=True)
        ]
        if both_orders:
            windows += [
                _strategy_group_window(query, groups[index], positions[::-1])
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


def check_group_choice(size: int, top_k: int) -> None:
    """Check the window size and the number of documents to rank.

    Raises:
        UsageError: ``size < 2`` or ``top_k < 1``.
    """
    if size < 2:
        raise UsageError(f"The window size is {size}", expected="at least 2 documents")
    if top_k < 1:
        raise UsageError(f"top_k is {top_k}", expected="at least 1")


def _strategy_group_window(query: Query, group: Sequence[Document], positions: Sequence[int]) -> Window:
    return Window(query, tuple(group[position] for position in positions), best=1)
