"""All pairs: every document is compared with every other document in both orders, and wins are counted.

Source: PRP-Allpair of Qin et al., NAACL Findings 2024, arXiv 2306.17563, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class AllPairs:
    """A strategy that judges every pair as (a, b) and as (b, a) and sorts documents by wins; ties keep the input order.

    A document wins a comparison if it is chosen in both orders; if the choice depends on the order, the comparison is a
    tie. The score of a document is its number of wins plus half its number of ties:
    s_i = sum over j of 1[i > j] + 1/2 sum over j of 1[i = j].

    Calls for n documents: n (n - 1), which is 9,900 for n = 100. All pairs are yielded in one round.
    """

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield all pairs, in both orders."""
        n = len(ranking)
        pairs = [pair for a, b in combinations(range(n), 2) for pair in ((a, b), (b, a))]
        if not pairs:
            return ranking
        orders = yield [Window(ranking.query, (ranking.docs[a], ranking.docs[b]), best=1) for a, b in pairs]
        # Twice the score s_i: a consistent win counts 2, and a tie counts 1 for each document.
        half_wins = [0] * n
        for pair, order in zip(pairs, orders, strict=True):
            half_wins[pair[order[0]]] += 1
        return ranking.reorder(0, tuple(sorted(range(n), key=lambda position: -half_wins[position])))

    def calls(self, n: int) -> int:
        """Return the number of windows, n (n - 1)."""
        return n * (n - 1)
