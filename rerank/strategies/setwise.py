"""Strategies that choose the best of a pair or a small set: all pairs, bubble sort and heapsort.

Sources: all pairs is PRP-Allpair of Qin et al., NAACL Findings 2024, arXiv 2306.17563, section 3.2; setwise bubble sort
and heapsort are from Zhuang et al., SIGIR 2024, arXiv 2310.09497, section 3. With windows of two documents, they are
PRP-Sliding-K and the heapsort of Qin et al., sections 3.4 and 3.3.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

from rerank.errors import ensure
from rerank.strategies.base import check_choice, choose_winners, count_choice_windows, count_windows, window_spans
from rerank.types import Order, Plan, Ranking, Window

#: Maximum number of pairs that are yielded together: all pairs of 100 documents.
_PAIRS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AllPairs:
    """A strategy that judges every pair as (a, b) and as (b, a) and sorts documents by wins; ties keep the input order.

    A document wins a comparison if it is chosen in both orders; if the choice depends on the order, the comparison is a
    tie. The score of a document is its number of wins plus half its number of ties:
    s_i = sum over j of 1[i > j] + 1/2 sum over j of 1[i = j].

    Calls for n documents: n (n - 1), which is 9,900 for n = 100. All pairs of up to 100 documents are yielded in one
    round; those of more documents in several, so that not all of them are in memory.
    """

    def __call__(self, ranking: Ranking) -> Plan:
        n = len(ranking)
        pairs = (pair for a, b in combinations(range(n), 2) for pair in ((a, b), (b, a)))
        # Twice the score s_i: a consistent win counts 2, and a tie counts 1 for each document.
        half_wins = [0] * n
        while shown := list(islice(pairs, _PAIRS)):
            orders = yield [Window(ranking.query, (ranking.docs[a], ranking.docs[b]), best=1) for a, b in shown]
            for pair, order in zip(shown, orders, strict=True):
                half_wins[pair[order[0]]] += 1
        return ranking.reorder(0, tuple(sorted(range(n), key=lambda position: -half_wins[position])))

    def calls(self, n: int) -> int:
        return n * (n - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubblesort:
    """A strategy that makes ``top_k`` passes from tail to head. Each pass moves the best remaining document up.

    Adjacent windows share one document, the winner of the window that is nearer to the tail. The other documents keep
    their order. A window is not judged again if an earlier pass had a window with the same documents in the same order.

    Maximum number of calls for n documents: the sum over 0 <= p < min(top_k, n - 1) of ceil((n - p - 1) / (size - 1)),
    times 2 if both orders are judged. With n = 100 and 10 passes: 475 calls with windows of 3 documents, or 945 calls
    with windows of 2.
    """

    size: int = 3  # number of documents per window
    top_k: int = 10  # number of best documents to rank, one per pass
    #: Judge each window in both orders; the first document wins unless another document is chosen both times.
    both_orders: bool = False

    def __post_init__(self) -> None:
        check_choice(self.size, self.top_k)

    def __call__(self, ranking: Ranking) -> Plan:
        n = len(ranking)
        winners: dict[tuple[str, ...], int] = {}
        for first in range(min(self.top_k, n - 1)):
            for start, end in window_spans(n, self.size, self.size - 1, first):
                docs = ranking.docs[start:end]
                if (key := tuple(doc.id for doc in docs)) not in winners:
                    plan = choose_winners(ranking.query, [docs], size=self.size, both_orders=self.both_orders)
                    (winners[key],) = yield from plan
                winner = winners[key]
                others = (position for position in range(len(docs)) if position != winner)
                ranking = ranking.reorder(start, (winner, *others))
        return ranking

    def calls(self, n: int) -> int:
        windows = sum(count_windows(n - first, self.size, self.size - 1) for first in range(min(self.top_k, n - 1)))
        return windows * (1 + self.both_orders)


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
    """

    #: Number of documents per window. A window contains a node and its children, so 3 gives the paper's binary heap.
    #: With 2, pairs are compared: a node with its first child, then the winner with the next child.
    size: int = 3
    top_k: int = 10  # number of best documents to rank
    #: Judge each window in both orders. If the choices differ, the first document of the window wins.
    both_orders: bool = False
    #: Number of children per node; None for as many as fit in a window with the node, but at least 2.
    children: int | None = None

    def __post_init__(self) -> None:
        check_choice(self.size, self.top_k)
        ensure(self._children >= 1, f"The number of children per node is {self.children}", expected="at least 1")

    def __call__(self, ranking: Ranking) -> Plan:
        n = len(ranking)
        heap = list(range(n))  # positions in the input list
        # Build the heap from the last level up: when a level sinks, all subtrees below it are already heaps.
        for nodes in reversed(_levels(n, self._children)):
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
        building = sum(self._path_windows(node, n) for node in range(n))
        return building + sum(self._path_windows(0, n - removed) for removed in range(1, min(self.top_k, n)))

    @property
    def _children(self) -> int:
        return max(2, self.size - 1) if self.children is None else self.children

    def _path_windows(self, node: int, n: int) -> int:
        """Return the number of windows for sinking from ``node`` along first children, the longest path of a heap."""
        windows = 0
        while family := _child_nodes(node, n, self._children):
            windows += count_choice_windows(len(family) + 1, size=self.size, both_orders=self.both_orders)
            node = family[0]
        return windows

    def _sink(
        self, ranking: Ranking, heap: list[int], nodes: Sequence[int]
    ) -> Generator[list[Window], list[Order], None]:
        """Let nodes with disjoint subtrees sink to their final positions in the heap."""
        sinking = list(nodes)
        while families := [
            (node, *below) for node in sinking if (below := _child_nodes(node, len(heap), self._children))
        ]:
            # In input order, so that without a valid answer, the document that the first stage prefers wins.
            shown = [sorted(family, key=heap.__getitem__) for family in families]
            groups = [[ranking.docs[heap[node]] for node in family] for family in shown]
            winners = yield from choose_winners(ranking.query, groups, size=self.size, both_orders=self.both_orders)
            sinking = []
            for (node, *_), family, winner in zip(families, shown, winners, strict=True):
                if (child := family[winner]) != node:
                    heap[node], heap[child] = heap[child], heap[node]
                    sinking.append(child)


def _child_nodes(node: int, n: int, children: int) -> range:
    # The usual array layout of a heap: children of node i at c i + 1 .. c i + c.
    first = children * node + 1
    return range(min(first, n), min(first + children, n))


def _levels(n: int, children: int) -> list[range]:
    levels = []
    start, width = 0, 1
    while start < n:
        levels.append(range(start, min(start + width, n)))
        start, width = start + width, width * children
    return levels
