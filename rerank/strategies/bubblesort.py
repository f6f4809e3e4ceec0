"""Setwise bubble sort: the best document of a window moves on to the next window, from the tail to the head.

Source: Zhuang et al., SIGIR 2024, arXiv 2310.09497, section 3. With windows of two documents, this is PRP-Sliding-K of
Qin et al., NAACL Findings 2024, arXiv 2306.17563, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from rerank.strategies.base.group_winners import check_group_choice, choose_group_winners
from rerank.strategies.sliding import count_sliding_windows, sliding_window_spans
from rerank.types import Plan, Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubblesort:
    """A strategy that makes ``top_k`` passes from tail to head. Each pass moves the best remaining document up.

    Adjacent windows share one document, the winner of the window that is nearer to the tail. The other documents keep
    their order. A window is not judged again if an earlier pass had a window with the same documents in the same order.

    Maximum number of calls for n documents: the sum over 0 <= p < min(top_k, n - 1) of ceil((n - p - 1) / (size - 1)),
    times 2 if both orders are judged. With n = 100 and 10 passes: 475 calls with windows of 3 documents, or 945 calls
    with windows of 2.

    Attributes:
        size: Number of documents per window.
        top_k: Number of best documents to rank, one per pass.
        both_orders: Judge each window in both orders; the first document wins unless another document is chosen both
            times.
    """

    size: int = 3
    top_k: int = 10
    both_orders: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        check_group_choice(self.size, self.top_k)

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield one window at a time, in one or both orders, with the winner of the previous window of the pass."""
        n = len(ranking)
        winners: dict[tuple[str, ...], int] = {}
        for first in range(min(self.top_k, n - 1)):
            for start, end in sliding_window_spans(n, self.size, self.size - 1, first):
                docs = ranking.docs[start:end]
                key = tuple(doc.id for doc in docs)
                if key not in winners:
                    plan = choose_group_winners(ranking.query, [docs], size=self.size, both_orders=self.both_orders)
                    (winners[key],) = yield from plan
                winner = winners[key]
                others = (position for position in range(len(docs)) if position != winner)
                ranking = ranking.reorder(start, (winner, *others))
        return ranking

    def calls(self, n: int) -> int:
        """Return the maximum number of calls, which a perfect judge needs for a list in reverse order."""
        passes = range(min(self.top_k, n - 1))
        windows = sum(count_sliding_windows(n - first, self.size, self.size - 1) for first in passes)
        return windows * (1 + self.both_orders)
