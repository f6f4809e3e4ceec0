"""Permutation self-consistency: the list is judged in several random orders, and the results are aggregated.

Source: Tang et al., NAACL 2024, arXiv 2310.07712.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rerank.strategies.base import check_number_of_passes
from rerank.strategies.self_consistency.kemeny import count_strategy_order_votes, kemeny_order
from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfConsistency:
    """A strategy that judges the whole list in ``passes`` random orders and returns the Kemeny order of the results.

    The Kemeny order minimises the sum of Kendall distances to the results. The computed order is exact if each cycle of
    contradicting majorities involves at most 12 documents; larger components are ordered by Borda count and local
    search (`kemeny_order`). Ties keep the input order.

    If ``top_k`` is set, only the first ``top_k`` documents of a result are ordered; the others are tied. If the judge
    fails on a random order, this random order is used as its result.

    Calls for n documents: passes if n > 1, else 0; all in one round. A list that is too long for the model's context
    takes more calls, as in `rerank.strategies.full`.

    Attributes:
        passes: Number of random orders. The paper uses m = 20; 5 orders achieve two thirds of the gain of 20 orders.
        top_k: Number of best documents to rank in each result; None for all.
        seed: Seed of the shuffles.
    """

    passes: int = 5
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        check_number_of_passes(self.passes)

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield the whole list in all random orders at once."""
        n = len(ranking)
        if n < 2:
            return ranking
        shuffles = [list(range(n)) for _ in range(self.passes)]
        for index, positions in enumerate(shuffles):
            random.Random(f"{self.seed}/{ranking.query.id}/{index}").shuffle(positions)
        windows = [
            Window(ranking.query, tuple(ranking.docs[position] for position in positions), best=self.top_k)
            for positions in shuffles
        ]
        orders = yield windows
        ranked = [[positions[index] for index in order] for positions, order in zip(shuffles, orders, strict=True)]
        return ranking.reorder(0, tuple(kemeny_order(count_strategy_order_votes(ranked, n, depth=self.top_k))))

    def calls(self, n: int) -> int:
        """Return the number of passes, or 0 for fewer than two documents."""
        return self.passes * (n > 1)
