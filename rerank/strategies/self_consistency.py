"""Permutation self-consistency: the list is judged in several random orders, and the results are aggregated.

Source: Tang et al., NAACL 2024, arXiv 2310.07712. The aggregate is the order that contradicts fewest pairwise votes,
exact for small cycles of majorities.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rerank.strategies.base import check_passes
from rerank.types import Plan, Ranking, Window

#: Components of at most this many items are solved exactly, by dynamic programming over 2^12 subsets.
MAX_EXACT_SIZE = 12

#: ``votes[a][b]`` is the number of orders that have a before b; shape (n, n).
Votes = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfConsistency:
    """A strategy that judges the whole list in ``passes`` random orders and returns the Kemeny order of the results.

    The Kemeny order minimises the sum of Kendall distances to the results. The computed order is exact if each cycle of
    contradicting majorities involves at most 12 documents; larger components are ordered by Borda count and local
    search (`kemeny_order`). Ties keep the input order.

    If ``top_k`` is set, only the first ``top_k`` documents of a result are ordered; the others are tied. If the judge
    fails on a random order, this random order is used as its result.

    Calls for n documents: passes if n > 1, else 0; all in one round. A list that is too long for the model's context
    takes more calls, as in `Full`.
    """

    #: Number of random orders. The paper uses m = 20; 5 orders achieve two thirds of the gain of 20 orders.
    passes: int = 5
    top_k: int | None = None  # number of best documents to rank in each result; None for all
    seed: int = 0

    def __post_init__(self) -> None:
        check_passes(self.passes)

    def __call__(self, ranking: Ranking) -> Plan:
        if (n := len(ranking)) < 2:
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
        return ranking.reorder(0, tuple(kemeny_order(count_votes(ranked, n, depth=self.top_k))))

    def calls(self, n: int) -> int:
        return self.passes * (n > 1)


def count_votes(orders: Sequence[Sequence[int]], n: int, *, depth: int | None = None) -> list[list[int]]:
    """Count how many of the orders have a before b, for all pairs; items from position ``depth`` on are tied."""
    votes = [[0] * n for _ in range(n)]
    for order in orders:
        for rank, a in enumerate(order[:depth]):
            for b in order[rank + 1 :]:
                votes[a][b] += 1
    return votes


def kemeny_order(votes: Votes) -> list[int]:
    """Return an order that contradicts the fewest votes, summed over all pairs; ties keep the input order.

    The majority graph has an edge from a to b if more orders have a before b. Between its strongly connected
    components, the majorities are consistent, so an optimal order lists one component after the other (Truchon's
    extended Condorcet criterion). Within a component of at most `MAX_EXACT_SIZE` items, dynamic programming over
    subsets is exact. A larger component starts in Borda order, and each item moves up while a majority prefers it to
    its neighbour (local Kemenization, Dwork et al., WWW 2001), which is not always optimal.
    """
    reach = _reachable_by_majority(votes)
    # The smallest member identifies a component: a and b are in the same component if each reaches the other.
    first = {a: min(b for b in range(len(votes)) if reach[a] >> b & reach[b] >> a & 1) for a in range(len(votes))}
    # A component that beats another one reaches everything that the other one reaches, and more. Sorting by the number
    # of reachable items is therefore a topological order of the components.
    ordered = sorted(first, key=lambda item: (-reach[item].bit_count(), first[item], item))
    components = [list(members) for _, members in groupby(ordered, key=first.__getitem__)]
    solved = (
        _exact_order(votes, part) if len(part) <= MAX_EXACT_SIZE else _local_order(votes, part) for part in components
    )
    return [item for part in solved for item in part]


def _reachable_by_majority(votes: Votes) -> list[int]:
    """Return for each item the bit set of items reachable in the majority graph, including itself (Warshall)."""
    n = len(votes)
    reach = [1 << a | sum(1 << b for b in range(n) if votes[a][b] > votes[b][a]) for a in range(n)]
    for through in range(n):
        for a in range(n):
            if reach[a] >> through & 1:
                reach[a] |= reach[through]
    return reach


def _exact_order(votes: Votes, component: Sequence[int]) -> list[int]:
    """Return the optimal order of a component by dynamic programming over subsets, O(2^k k^2)."""
    size = len(component)
    # cost[S] = min over i in S of cost[S - {i}] + sum over j in S of votes[j][i], where i comes first; S is a bit set.
    cost = [0] * (1 << size)
    head = [0] * (1 << size)
    for subset in range(1, 1 << size):
        inside = [i for i in range(size) if subset >> i & 1]
        cost[subset], head[subset] = min(
            [(cost[subset & ~(1 << i)] + sum(votes[component[j]][component[i]] for j in inside), i) for i in inside]
        )
    order, subset = [], (1 << size) - 1
    while subset:
        order.append(component[head[subset]])
        subset &= ~(1 << head[subset])
    return order


def _local_order(votes: Votes, component: Sequence[int]) -> list[int]:
    order: list[int] = []
    for a in sorted(component, key=lambda a: (-sum(votes[a][b] for b in component), a)):
        position = len(order)
        while position and votes[a][order[position - 1]] > votes[order[position - 1]][a]:
            position -= 1
        order.insert(position, a)
    return order
