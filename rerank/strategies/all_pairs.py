"""All pairs: every document against every other, in both orders, and a count of wins.

Source: PRP-Allpair of Qin et al., NAACL Findings 2024, arXiv 2306.17563, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class AllPairs:
    """Ask about every pair twice, as (a, b) and as (b, a), and order by wins, ties as given.

    Score of a document: the number of others over which it is chosen both times, plus half the number of those where
    the choice depends on the order: s_i = sum over j of 1[i > j] + 1/2 sum over j of 1[i = j].

    Calls for n documents: n (n - 1); 9,900 for 100. No pair waits for another: all are asked at once.
    """

    def __call__(self, ranking: Ranking) -> Plan:
        """Yield all pairs."""
        n = len(ranking)
        pairs = [pair for a, b in combinations(range(n), 2) for pair in ((a, b), (b, a))]
        if not pairs:
            return ranking
        orders = yield [Window(ranking.query, (ranking.docs[a], ranking.docs[b]), best=1) for a, b in pairs]
        halves = [0] * n  # one for each time it is chosen: two for a consistent win, one each for a tie
        for pair, order in zip(pairs, orders, strict=True):
            halves[pair[order[0]]] += 1
        return ranking.reorder(0, tuple(sorted(range(n), key=lambda at: -halves[at])))

    def calls(self, n: int) -> int:
        """The formula above."""
        return n * (n - 1)
