"""Setwise bubble sort: the best of a window moves on to the next window, from the tail to the head.

Source: Zhuang et al., SIGIR 2024, arXiv 2310.09497, section 3. Windows of two are PRP-Sliding-K of Qin et al.,
NAACL Findings 2024, arXiv 2306.17563, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

from rerank.strategies.base.contests import check_choice, contests
from rerank.strategies.sliding import span_count, spans
from rerank.types import Plan, Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubblesort:
    """Walk from the tail to the head ``top_k`` times; each walk carries its best document to the head and freezes it.

    Neighbouring windows share one document, the winner of the one nearer the tail. The others keep their order. A
    window whose documents stand as they stood in an earlier walk is not asked about again.

    Calls for n documents, at most: the sum over 0 <= p < min(top_k, n - 1) of ceil((n - p - 1) / (size - 1)), twice
    that in both orders. With n = 100 and 10 passes: 475 windows of 3, 945 of 2.

    Attributes:
        size: Documents in a window.
        top_k: How many of the best are put in order, one a walk.
        both_orders: Ask about each window in both orders; its first document stays unless another one is chosen in
            both.

    Raises:
        UsageError: ``size < 2`` or ``top_k < 1``.
    """

    size: int = 3
    top_k: int = 10
    both_orders: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice(self.size, self.top_k)

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield one window at a time (two in both orders); each begins where the winner of the last one may go."""
        n = len(ranking)
        known: dict[tuple[str, ...], int] = {}
        for first in range(min(self.top_k, n - 1)):
            for start, end in spans(n, self.size, self.size - 1, first):
                docs = ranking.docs[start:end]
                key = tuple(doc.id for doc in docs)
                if key not in known:
                    asking = contests(ranking.query, [docs], size=self.size, both_orders=self.both_orders)
                    (known[key],) = yield from asking
                winner = known[key]
                ranking = ranking.reorder(start, (winner, *(at for at in range(len(docs)) if at != winner)))
        return ranking

    def calls(self, n: int) -> int:
        """The bound above; a list in reverse order and a judge that makes no mistakes reach it."""
        walks = range(min(self.top_k, n - 1))
        windows = sum(span_count(n - first, self.size, self.size - 1) for first in walks)
        return windows * (1 + self.both_orders)
