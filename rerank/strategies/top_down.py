"""Top-down partitioning: a pivot from the head of the list decides who else deserves a second look.

Source: Parry, MacAvaney and Ganguly, arXiv 2405.14589, in its parallel form.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.types import Document, Order, Plan, Query, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class TopDown:
    """Rank the head, compare all others with its middle document at once, and rank again whatever was found better.

    The head is a window of ``size``; its document at half of it is the pivot. Every other document is asked about
    together with the pivot, ``size - 1`` of them a window. Those put above it join those above it in the head, first
    those that came first in their windows. If there are none, the head's order stands. Otherwise they are ranked once
    more, at most ``budget`` of them, in the same way if that is more than a window. All others keep their blocks, the
    head's before the next ones.

    Calls for n documents, at most: c(n) = 1 for 2 <= n <= size; above that 1 + m + c(b), with
    m = ceil((n - size) / (size - 1)) windows beside the head and b = min(max(budget, m + 1), n - 1 - size + pivot)
    ranked again. With n = 100: 1 + 5 + 1 = 7, and 6 where nothing was better than the pivot, in 3 rounds.

    A judge that makes no mistakes always gets the best first, and with a budget of n all as far as the pivot.

    Attributes:
        size: Documents in a window.
        budget: How many are ranked again, never fewer than one a window; None for one window of them. With the
            length of the list, nothing that was found better is ever left out: for lists whose head is poor.
        top_k: How many of the best are wanted: the rank of the pivot, at most ``size - 1``; None for half a window.

    Raises:
        UsageError: ``size < 3``, so that a window with the pivot holds no two others, ``budget < 1`` or ``top_k < 1``.
    """

    size: int = 20
    budget: int | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        if self.size < 3:
            raise UsageError(f"Window size {self.size}", expected="at least 3: the pivot and two others")
        for name, value in (("A budget of", self.budget), ("The best", self.top_k)):
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}", expected="at least 1")

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield the head; then all other documents with the pivot; then those that are ranked again."""
        docs, settled = list(ranking.docs), list[Document]()
        while len(docs) > self.size:
            above, pivot, below = yield from self._head(ranking.query, docs)
            better, worse = yield from self._others(ranking.query, pivot, docs[self.size :])
            settled = [pivot, *below, *worse, *settled]
            if not any(better):
                return Ranking.from_order(ranking.query, [*above, *settled])
            # Those that came first in their windows come first, then those that came second.
            entries = [entry for part in (above, *better) for entry in enumerate(part)]
            found = [doc for _, doc in sorted(entries, key=lambda entry: entry[0])]
            budget = self._again(len(docs))
            docs, settled = found[:budget], [*found[budget:], *settled]
        if len(docs) > 1:
            (order,) = yield [Window(ranking.query, tuple(docs), best=self.top_k)]
            docs = [docs[at] for at in order]
        return Ranking.from_order(ranking.query, [*docs, *settled])

    def calls(self, n: int) -> int:
        """The formula above; a judge that finds every document better than the pivot reaches it."""
        calls = 0
        while n > self.size:
            calls += 1 + self._windows(n)
            n = min(self._again(n), n - 1 - self.size + self._rank)
        return calls + (n > 1)

    @property
    def _rank(self) -> int:
        """Rank of the pivot, from 1."""
        return min(self.top_k or self.size // 2, self.size - 1)

    def _windows(self, n: int) -> int:
        """Windows for all that is behind the head."""
        return math.ceil((n - self.size) / (self.size - 1))

    def _again(self, n: int) -> int:
        """How many are ranked again, at most."""
        return max(self.budget or self.size, self._windows(n) + 1)

    def _head(
        self, query: Query, docs: Sequence[Document]
    ) -> Generator[list[Window], list[Order], tuple[list[Document], Document, list[Document]]]:
        """Rank the head; return what is above the pivot, the pivot, and what is below."""
        best = None if self.top_k is None else self._rank
        (order,) = yield [Window(query, tuple(docs[: self.size]), best=best)]
        ranked = [docs[at] for at in order]
        return ranked[: self._rank - 1], ranked[self._rank - 1], ranked[self._rank :]

    def _others(
        self, query: Query, pivot: Document, docs: Sequence[Document]
    ) -> Generator[list[Window], list[Order], tuple[list[list[Document]], list[Document]]]:
        """Compare all others with the pivot; return what is above it, window by window, and all that is below."""
        step = self.size - 1
        # The pivot is shown first, so that a window without an answer, which keeps its order, raises nobody.
        windows = [Window(query, (pivot, *docs[at : at + step])) for at in range(0, len(docs), step)]
        better, worse = [], list[Document]()
        for window, order in zip(windows, (yield windows), strict=True):
            place = order.index(0)
            better.append([window.docs[at] for at in order[:place]])
            worse += [window.docs[at] for at in order[place + 1 :]]
        return better, worse
