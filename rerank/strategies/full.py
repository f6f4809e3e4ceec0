"""Full ranking: the whole list in one window (Liu et al., ACL 2025, arXiv 2412.14574, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """A strategy that judges all documents in one window.

    Calls for n documents: 1 if n > 1, else 0. A list that is too long for the model's context takes more calls: it
    is divided into parts, which are ranked and merged (`rerank.pipeline.driver`). The summary of the run
    counts such windows.

    Attributes:
        top_k: Number of best documents to rank; None for all.
    """

    top_k: int | None = None

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield the whole list as one window."""
        if len(ranking) > 1:
            (order,) = yield [Window(ranking.query, ranking.docs, best=self.top_k)]
            ranking = ranking.reorder(0, order)
        return ranking

    def calls(self, n: int) -> int:
        """Return the number of windows: 1, or 0 for fewer than two documents."""
        return int(n > 1)
