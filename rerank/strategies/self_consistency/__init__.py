"""Permutation self-consistency: the list is judged in many orders, and the order that agrees most with all is kept.

Source: Tang et al., NAACL 2024, arXiv 2310.07712.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.strategies.self_consistency.kemeny import kemeny, votes_of
from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfConsistency:
    """Ask about the whole list in ``passes`` random orders, and take Kemeny's order of the answers.

    The central order has the least sum of Kendall's distances to the answers. It is exact where the documents whose
    majorities contradict each other form knots of at most 12; in a larger knot it is Borda's order, improved until no
    two neighbours are to be swapped (`kemeny`). Documents with equal claims
    keep the given order.
    An answer that names only some documents says nothing about the others among themselves if ``top_k`` asked for no
    more; an answer that failed votes for the order in which it was asked, one of the random ones.

    Calls for n documents: passes, if n > 1, else 0; all in one round. A list that is too long for the model's context
    takes more, as in `rerank.strategies.full`.

    Attributes:
        passes: Random orders, the paper's m = 20. Two thirds of what 20 gain come with the first 5.
        top_k: How many of the best are wanted in each answer; None for the whole order.
        seed: Where the shuffles start.

    Raises:
        UsageError: ``passes < 1``.
    """

    passes: int = 5
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        if self.passes < 1:
            raise UsageError(f"{self.passes} passes", expected="at least 1")

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield the whole list in all orders at once."""
        n = len(ranking)
        if n < 2:
            return ranking
        shown = [list(range(n)) for _ in range(self.passes)]
        for at, order in enumerate(shown):
            random.Random(f"{self.seed}/{ranking.query.id}/{at}").shuffle(order)
        windows = [Window(ranking.query, tuple(ranking.docs[at] for at in order), best=self.top_k) for order in shown]
        answers = yield windows
        ranked = [[order[at] for at in answer] for order, answer in zip(shown, answers, strict=True)]
        return ranking.reorder(0, tuple(kemeny(votes_of(ranked, n, wanted=self.top_k))))

    def calls(self, n: int) -> int:
        """The formula above."""
        return self.passes * (n > 1)
