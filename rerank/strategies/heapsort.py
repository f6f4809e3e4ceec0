"""Setwise heapsort: find the best documents with a heap in which a node is compared with all its children at once.

Source: Zhuang et al., SIGIR 2024, arXiv 2310.09497, section 3. With pairs, it is the heapsort of Qin et al.,
NAACL Findings 2024, arXiv 2306.17563, section 3.3.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.strategies.base.group_winners import check_group_choice, choose_group_winners, count_choice_windows
from rerank.types import Order, Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Heapsort:
    """A strategy that builds a heap of the list and removes its root ``top_k`` times; the rest keeps its order.

    A node sinks as long as one of its children is chosen over it. While the heap is built, all nodes of the same depth
    sink together. Since their subtrees are disjoint, the windows are the same as in the usual algorithm, but there are
    fewer rounds. A window shows its documents in input order, so a window without a valid answer keeps the input order.
    If the parent came first instead, each removal of the root would promote one of the last documents of the list.

    Maximum number of calls for n documents: s x (the sum of the heights of all nodes of a heap of n + the sum over
    1 <= j < min(top_k, n) of the height of a heap of n - j), where s is the number of windows for a node and its
    children: ceil(children / (size - 1)), times 2 for both orders. A node with fewer children takes fewer windows.
    With n = 100: 97 + 9 x 6 = 151 windows of 3 documents; 300 windows of 2 documents, or 600 in both orders.

    Attributes:
        size: Number of documents per window. A window contains a node and its children, so 3 gives the paper's binary
            heap. With 2, pairs are compared: a node with its first child, then the winner with the next child.
        top_k: Number of best documents to rank.
        both_orders: Judge each window in both orders. If the choices differ, the first document of the window wins.
        children: Number of children per node; None for as many as fit in a window with the node, but at least 2.
    """

    size: int = 3
    top_k: int = 10
    both_orders: bool = False
    children: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_group_choice(self.size, self.top_k)
        if self._children < 1:
            raise UsageError(f"The number of children per node is {self.children}", expected="at least 1")

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield nodes with their children: all nodes of a depth at once while the heap is built, then one at a time."""
        n = len(ranking)
        heap = list(range(n))  # positions in the input list
        # Build the heap from the last level up: when a level sinks, all subtrees below it are already heaps.
        for nodes in reversed(_heap_levels(n, self._children)):
            yield from self._sink(ranking, heap, nodes)
        best: list[int] = []
        while heap and len(best) < self.top_k:
            if best:
                yield from self._sink(ranking, heap, [0])
            best.append(heap[0])
            # The last leaf replaces the root; it sinks in the next round, so the last removal costs nothing.
            heap[0] = heap[-1]
            heap.pop()
        return ranking.reorder(0, (*best, *(position for position in range(n) if position not in best)))

    def calls(self, n: int) -> int:
        """Return the maximum number of calls, reached if every node sinks along the longest path."""
        building = sum(self._path_windows(node, n) for node in range(n))
        return building + sum(self._path_windows(0, n - removed) for removed in range(1, min(self.top_k, n)))

    @property
    def _children(self) -> int:
        return max(2, self.size - 1) if self.children is None else self.children

    def _path_windows(self, node: int, n: int) -> int:
        """Return the number of windows for sinking from ``node`` along first children, the longest path of a heap."""
        windows = 0
        while family := _heap_child_nodes(node, n, self._children):
            windows += count_choice_windows(len(family) + 1, size=self.size, both_orders=self.both_orders)
            node = family[0]
        return windows

    def _sink(
        self, ranking: Ranking, heap: list[int], nodes: Sequence[int]
    ) -> Generator[list[Window], list[Order], None]:
        """Let nodes with disjoint subtrees sink to their final positions in the heap."""
        sinking = list(nodes)
        while families := [
            (node, *below) for node in sinking if (below := _heap_child_nodes(node, len(heap), self._children))
        ]:
            # In input order, so that without a valid answer, the document that the first stage prefers wins.
            shown = [sorted(family, key=heap.__getitem__) for family in families]
            groups = [[ranking.docs[heap[node]] for node in family] for family in shown]
            winners = yield from choose_group_winners(
                ranking.query, groups, size=self.size, both_orders=self.both_orders
            )
            sinking = []
            for (node, *_), family, winner in zip(families, shown, winners, strict=True):
                if (child := family[winner]) != node:
                    heap[node], heap[child] = heap[child], heap[node]
                    sinking.append(child)


def _heap_child_nodes(node: int, n: int, children: int) -> range:
    """Return the positions of a node's children in a heap of n nodes."""
    # The usual array layout of a heap: children of node i at c i + 1 .. c i + c.
    first = children * node + 1
    return range(min(first, n), min(first + children, n))


def _heap_levels(n: int, children: int) -> list[range]:
    """Return the positions of a heap's nodes, level by level, from the root."""
    levels = []
    start, width = 0, 1
    while start < n:
        levels.append(range(start, min(start + width, n)))
        start, width = start + width, width * children
    return levels
