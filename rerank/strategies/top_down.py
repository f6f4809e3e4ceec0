"""Top-down partitioning: a pivot from the head of the list is compared with all documents behind the head.

Source: Parry, MacAvaney and Ganguly, arXiv 2405.14589, in its parallel form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rerank.errors import ensure
from rerank.types import Document, Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class TopDown:
    """A strategy that ranks the head, compares the other documents with a pivot, and reranks the better ones.

    The head is a window with the first ``size`` documents. After it has been ranked, its middle document is the pivot.
    All documents behind the head are judged together with the pivot, ``size - 1`` of them per window. Documents that
    are ranked above the pivot become candidates, as do the documents above the pivot in the head. The candidates are
    sorted by the rank that each has in its window.

    If no document from behind the head is ranked above the pivot, the order of the head remains. Otherwise, the first
    ``budget`` candidates are ranked again, in the same way if there are more than ``size``. All other documents follow
    in blocks, the block of the head before the block of the other windows.

    Maximum number of calls for n documents: c(n) = 1 for 2 <= n <= size. For larger n, c(n) = 1 + m + c(b), where
    m = ceil((n - size) / (size - 1)) is the number of windows behind the head, b = min(max(budget, m + 1),
    n - 1 - size + pivot) is the number of documents ranked again, and pivot is the rank of the pivot. With n = 100:
    1 + 5 + 1 = 7 calls in 3 rounds, or 6 calls if no document is better than the pivot.

    With a perfect judge, the best document always comes first, and with a budget of n, all ranks up to the pivot are
    correct.
    """

    size: int = 20  # number of documents per window
    #: Maximum number of documents ranked again, raised to one per window if it is lower; None for ``size``. If the
    #: first stage is poor, use the length of the list, so that every document above the pivot is reranked.
    budget: int | None = None
    #: Number of best documents to rank. It is also the rank of the pivot, up to ``size - 1``; None for half a window.
    top_k: int | None = None

    def __post_init__(self) -> None:
        ensure(self.size >= 3, f"The window size is {self.size}", expected="at least 3: the pivot and two others")
        for name, value in (("budget", self.budget), ("top_k", self.top_k)):
            ensure(value is None or value >= 1, f"{name} is {value}", expected="at least 1")

    def __call__(self, ranking: Ranking) -> Plan:
        docs, settled, rank, step = list(ranking.docs), list[Document](), self._pivot_rank, self.size - 1
        while len(docs) > self.size:
            head_best = None if self.top_k is None else rank
            (order,) = yield [Window(ranking.query, tuple(docs[: self.size]), best=head_best)]
            head = [docs[position] for position in order]
            above, pivot, below = head[: rank - 1], head[rank - 1], head[rank:]
            # The pivot is shown first, so a window without a valid answer, which keeps its order, promotes no document.
            windows = [
                Window(ranking.query, (pivot, *docs[start : start + step]))
                for start in range(self.size, len(docs), step)
            ]
            better, worse = [], list[Document]()  # better than the pivot per window, and all that are worse
            for window, order in zip(windows, (yield windows), strict=True):
                better.append([window.docs[position] for position in order[: order.index(0)]])
                worse += [window.docs[position] for position in order[order.index(0) + 1 :]]
            settled = [pivot, *below, *worse, *settled]
            if not any(better):
                return Ranking.from_order(ranking.query, [*above, *settled])
            # Round robin over the windows: the first document of each window, then the second of each, and so on.
            ranked = [entry for part in (above, *better) for entry in enumerate(part)]
            candidates = [doc for _, doc in sorted(ranked, key=lambda entry: entry[0])]
            budget = self._budget(len(docs))
            docs, settled = candidates[:budget], [*candidates[budget:], *settled]
        if len(docs) > 1:
            (order,) = yield [Window(ranking.query, tuple(docs), best=self.top_k)]
            docs = [docs[position] for position in order]
        return Ranking.from_order(ranking.query, [*docs, *settled])

    def calls(self, n: int) -> int:
        calls = 0
        while n > self.size:
            # c(n) = 1 + m + c(b): the head, the windows with the pivot, and the documents ranked again
            calls += 1 + self._windows(n)
            n = min(self._budget(n), n - 1 - self.size + self._pivot_rank)
        return calls + (n > 1)

    @property
    def _pivot_rank(self) -> int:
        return min(self.top_k or self.size // 2, self.size - 1)

    def _windows(self, n: int) -> int:
        return math.ceil((n - self.size) / (self.size - 1))

    def _budget(self, n: int) -> int:
        # m + 1 keeps the best document of each of the m windows, and the best one of the head.
        return max(self.budget or self.size, self._windows(n) + 1)
