"""Full ranking: the whole list in one window (Liu et al., ACL 2025, arXiv 2412.14574, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """Ask once about all documents.

    Calls for n documents: 1 if n > 1, else 0. A list that is too long for the model's context takes more: it is ranked
    in parts which are merged (`rerank.pipeline.splitting`), and the run's summary counts it.

    Attributes:
        top_k: How many of the best are wanted; None for the whole order.
    """

    top_k: int | None = None

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield the whole list as one window."""
        if len(ranking) > 1:
            (order,) = yield [Window(ranking.query, ranking.docs, best=self.top_k)]
            ranking = ranking.reorder(0, order)
        return ranking

    def calls(self, n: int) -> int:
        """One, or none where there is nothing to order."""
        return int(n > 1)
