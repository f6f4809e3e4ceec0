"""Setwise heapsort: the best few by a heap whose nodes are compared with all their children at once.

Source: Zhuang et al., SIGIR 2024, arXiv 2310.09497, section 3; its pairwise form is the heapsort of Qin et al.,
NAACL Findings 2024, arXiv 2306.17563, section 3.3.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.strategies.base.contests import check_choice, contest_windows, contests
from rerank.types import Order, Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Heapsort:
    """Make a heap of the list, then take its root ``top_k`` times; the rest follows in its given order.

    A node sinks while one of its children is chosen over it. While the heap is made, all nodes of one depth sink side
    by side: their subtrees share nothing, so the windows are those of the usual order, in fewer rounds. A window shows
    its documents in their given order. So a window without an answer, or a judge that cannot decide, keeps that order,
    where the usual way would keep the parent up: after each root taken, one of the last in the list.

    Calls for n documents, at most: s x (the sum of the heights of all nodes of a heap of n + the sum over
    1 <= j < min(top_k, n) of the height of a heap of n - j), where s is the number of windows that a node and its
    children take: ceil(children / (size - 1)), twice that in both orders. It is fewer for a node with fewer children
    than that. With n = 100: 97 + 9 x 6 = 151 windows of 3; 300 pairs, 600 in both orders.

    Attributes:
        size: Documents in a window: a node with its children, so 3 makes the paper's binary heap. With 2, pairs are
            compared: a node with its first child, the winner with the next.
        top_k: How many of the best are put in order.
        both_orders: Ask about each window in both orders; unless one document is chosen in both, the one that comes
            first in the given list is.
        children: Children a node has; None for as many as one window holds beside it, and 2 for pairs.

    Raises:
        UsageError: ``children`` or ``top_k`` below 1 or ``size`` below 2.
    """

    size: int = 3
    top_k: int = 10
    both_orders: bool = False
    children: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice(self.size, self.top_k)
        if self._children < 1:
            raise UsageError(f"A heap with {self.children} children a node", expected="at least 1")

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield a node with its children, for all nodes of one depth at once at first, one at a time later."""
        n = len(ranking)
        heap = list(range(n))  # positions in the given list
        for nodes in reversed(_depths(n, self._children)):
            yield from self._sink(ranking, heap, nodes)
        best: list[int] = []
        while heap and len(best) < self.top_k:
            if best:
                yield from self._sink(ranking, heap, [0])
            best.append(heap[0])
            heap[0] = heap[-1]
            heap.pop()
        return ranking.reorder(0, (*best, *(at for at in range(n) if at not in best)))

    def calls(self, n: int) -> int:
        """The bound above: every node sinks to a leaf, the longest way."""
        making = sum(self._path(node, n) for node in range(n))
        return making + sum(self._path(0, n - taken) for taken in range(1, min(self.top_k, n)))

    @property
    def _children(self) -> int:
        return max(2, self.size - 1) if self.children is None else self.children

    def _path(self, node: int, n: int) -> int:
        """Windows that sinking from ``node`` along first children takes: the longest way, as a heap fills leftwards."""
        windows = 0
        while family := _family(node, n, self._children):
            windows += contest_windows(len(family) + 1, size=self.size, both_orders=self.both_orders)
            node = family[0]
        return windows

    def _sink(
        self, ranking: Ranking, heap: list[int], nodes: Sequence[int]
    ) -> Generator[list[Window], list[Order], None]:
        """Let nodes with separate subtrees sink to their places."""
        sinking = list(nodes)
        while families := [(node, *below) for node in sinking if (below := _family(node, len(heap), self._children))]:
            shown = [sorted(family, key=heap.__getitem__) for family in families]
            groups = [[ranking.docs[heap[node]] for node in family] for family in shown]
            winners = yield from contests(ranking.query, groups, size=self.size, both_orders=self.both_orders)
            sinking = []
            for (node, *_), family, winner in zip(families, shown, winners, strict=True):
                if (child := family[winner]) != node:
                    heap[node], heap[child] = heap[child], heap[node]
                    sinking.append(child)


def _family(node: int, n: int, children: int) -> range:
    """The positions of a node's children in a heap of n."""
    first = children * node + 1
    return range(min(first, n), min(first + children, n))


def _depths(n: int, children: int) -> list[range]:
    """The positions of a heap's nodes, depth by depth, from the root."""
    depths = []
    start, width = 0, 1
    while start < n:
        depths.append(range(start, min(start + width, n)))
        start, width = start + width, width * children
    return depths
