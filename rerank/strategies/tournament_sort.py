"""Tournament sort: the winners of all windows are compared, then the documents that lost only to the overall winner.

Sources: the m-ary tournament sort with output caching of ListT5 (Yoon et al., ACL 2024, arXiv 2402.15838), with windows
that are ranked completely, as in the listwise tournament of ListK (Shin, Chang and Nargesian, arXiv 2603.17223).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rerank.strategies.base.group_winners import check_group_choice
from rerank.strategies.base.preference_graph import PreferenceGraph
from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class TournamentSort:
    """A strategy that judges only documents that may be the next best one, and never compares two documents twice.

    The contenders are the remaining documents that are not known to be worse than another remaining document. At first,
    these are all documents. They are divided into windows, and only the winner of each window remains a contender,
    until only one is left. This contender is the next document of the ranking and is removed; the documents that were
    directly behind it in a window then become contenders. After ``top_k`` removals, the others are sorted by the number
    of better documents, then by input order.

    Contenders have no known order, so no window can contradict an earlier window. With a perfect judge, the first
    ``top_k`` documents are correct.

    With n = 100, windows of 20 and the ten best: 5 windows of 20 and one with their winners, then one of two to five
    documents for each of the other nine ranks. These 15 calls in 11 rounds show 130 passages if the input order is
    random, whereas sliding windows show 180 in 9 calls.

    Maximum number of calls: w(n) + the sum over 1 <= j < min(top_k, n - 1) of w(min(n - j, r_j)), where w(c) is the
    number of windows that find the best of c contenders, and r_j is the number of rounds until the j-th removal: a
    document has been in at most one window per round.

    Attributes:
        size: Maximum number of documents per window.
        top_k: Number of best documents to rank. A window ranks only the documents that can still be among them.
    """

    size: int = 20
    top_k: int = 10

    def __post_init__(self) -> None:
        """Check the options."""
        check_group_choice(self.size, self.top_k)

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield, for each round, all windows of its contenders together."""
        n = len(ranking)
        graph = PreferenceGraph(n)
        best = list[int]()
        while len(best) < min(self.top_k, n):
            removed = sum(1 << position for position in best)
            contenders = [p for p in range(n) if not (removed >> p & 1 or graph.above[p] & ~removed)]
            if len(contenders) == 1:
                best += contenders
                continue
            groups = [contenders[start:end] for start, end in self._spans(len(contenders))]
            wanted = self.top_k - len(best)
            windows = [Window(ranking.query, tuple(ranking.docs[p] for p in group), best=wanted) for group in groups]
            for window, group, order in zip(windows, groups, (yield windows), strict=True):
                graph.add_window_order([group[index] for index in order], window.depth)
        others = sorted(set(range(n)).difference(best), key=lambda position: (graph.count_better(position), position))
        return ranking.reorder(0, (*best, *others))

    def calls(self, n: int) -> int:
        """Return the maximum number of calls for a list of ``n`` documents."""
        calls = rounds = 0
        for removed in range(min(self.top_k, n - 1)):
            contenders = min(n - removed, rounds) if removed else n
            while contenders > 1:
                windows = sum(1 for _ in self._spans(contenders))
                calls, rounds, contenders = calls + windows, rounds + 1, math.ceil(contenders / self.size)
        return calls

    def _spans(self, contenders: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each window of a round; a contender left over alone waits for the next round."""
        for start in range(0, contenders - 1, self.size):
            yield start, min(start + self.size, contenders)
