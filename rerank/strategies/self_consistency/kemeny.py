"""Compute the order that contradicts the fewest pairwise votes; exact for small cycles of majorities."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

#: Components of at most this many items are solved exactly, by dynamic programming over 2^12 subsets.
MAX_EXACT_SIZE = 12

#: ``votes[a][b]`` is the number of orders that have a before b; shape (n, n).
Votes = Sequence[Sequence[int]]


def count_strategy_order_votes(orders: Sequence[Sequence[int]], n: int, *, depth: int | None = None) -> list[list[int]]:
    """Count how many orders of ``range(n)`` have a before b, for all pairs (a, b).

    Args:
        orders: The orders, best first.
        n: Number of items.
        depth: Number of leading positions of each order that are meaningful; the items after them are tied.
    """
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
        _exact_kemeny_strategy_order(votes, part) if len(part) <= MAX_EXACT_SIZE else _local_kemeny_order(votes, part)
        for part in components
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


def _exact_kemeny_strategy_order(votes: Votes, component: Sequence[int]) -> list[int]:
    """Return the optimal order of a component by dynamic programming over subsets, O(2^k k^2)."""
    size = len(component)
    # cost[S] = min over i in S of cost[S - {i}] + sum over j in S of votes[j][i], where i comes first; S is a bit set.
    cost = [0] * (1 << size)
    head = [0] * (1 << size)
    for subset in range(1, 1 << size):
        inside = [i for i in range(size) if subset >> i & 1]
        choices = [
            (cost[subset & ~(1 << i)] + sum(votes[component[j]][component[i]] for j in inside), i) for i in inside
        ]
        cost[subset], head[subset] = min(choices)
    order, subset = [], (1 << size) - 1
    while subset:
        order.append(component[head[subset]])
        subset &= ~(1 << head[subset])
    return order


def _local_kemeny_order(votes: Votes, component: Sequence[int]) -> list[int]:
    borda = sorted(component, key=lambda a: (-sum(votes[a][b] for b in component), a))
    order: list[int] = []
    for a in borda:
        position = len(order)
        while position and votes[a][order[position - 1]] > votes[order[position - 1]][a]:
            position -= 1
        order.insert(position, a)
    return order
