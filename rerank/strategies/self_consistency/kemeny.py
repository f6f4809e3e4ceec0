"""The order that disagrees least with many: Kemeny's, exact where that can be had.

Knows preferences between positions, not documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

#: Knots of at most so many are solved exactly: 2^12 sets.
EXACT_UP_TO = 12

#: ``votes[a][b]``: how many put a before b.
Votes = Sequence[Sequence[int]]


def votes_of(orders: Sequence[Sequence[int]], n: int, *, wanted: int | None = None) -> list[list[int]]:
    """Count who is put before whom, over orders of ``range(n)``.

    Args:
        orders: Best first.
        n: How many there are to order.
        wanted: Only that many of each order mean something; of those behind, none is before another.
    """
    votes = [[0] * n for _ in range(n)]
    for order in orders:
        for rank, a in enumerate(order[:wanted]):
            for b in order[rank + 1 :]:
                votes[a][b] += 1
    return votes


def kemeny(votes: Votes) -> list[int]:
    """An order with the least votes against it, summed over all pairs; ties as given.

    Where a majority's preferences form a circle, or several that hang together, their members make a knot; between
    knots the majority decides without contradiction, so an optimum puts one knot after the other (Truchon's extended
    Condorcet criterion). Within a knot of at most `EXACT_UP_TO` all sets are gone through, which is exact. A larger
    one begins in Borda's order and each moves up while a majority puts it before its neighbour (Dwork et al.,
    WWW 2001, local Kemenisation), which need not be the optimum.
    """
    reach = _reach(votes)
    first = {a: min(b for b in range(len(votes)) if reach[a] >> b & reach[b] >> a & 1) for a in range(len(votes))}
    # Whoever beats another knot reaches all that it reaches, and more, so this never contradicts a majority.
    ordered = sorted(first, key=lambda at: (-reach[at].bit_count(), first[at], at))
    knots = [list(members) for _, members in groupby(ordered, key=first.__getitem__)]
    return [at for knot in knots for at in (_exact if len(knot) <= EXACT_UP_TO else _local)(votes, knot)]


def against(votes: Votes, order: Sequence[int]) -> int:
    """How many votes an order goes against: the sum of Kendall's distances to all that voted."""
    return sum(votes[b][a] for rank, a in enumerate(order) for b in order[rank + 1 :])


def _reach(votes: Votes) -> list[int]:
    """For each the set, as bits, of itself and those it beats by majority, directly or through others (Warshall)."""
    n = len(votes)
    reach = [1 << a | sum(1 << b for b in range(n) if votes[a][b] > votes[b][a]) for a in range(n)]
    for through in range(n):
        for a in range(n):
            if reach[a] >> through & 1:
                reach[a] |= reach[through]
    return reach


def _exact(votes: Votes, knot: Sequence[int]) -> list[int]:
    """Dynamic programming over sets: the best order of a set is some first one and the best order of the rest."""
    size = len(knot)
    cost = [0] * (1 << size)
    head = [0] * (1 << size)
    for members in range(1, 1 << size):
        inside = [at for at in range(size) if members >> at & 1]
        choices = [
            (cost[members & ~(1 << at)] + sum(votes[knot[other]][knot[at]] for other in inside), at) for at in inside
        ]
        cost[members], head[members] = min(choices)
    order, members = [], (1 << size) - 1
    while members:
        order.append(knot[head[members]])
        members &= ~(1 << head[members])
    return order


def _local(votes: Votes, knot: Sequence[int]) -> list[int]:
    borda = sorted(knot, key=lambda a: (-sum(votes[a][b] for b in knot), a))
    order: list[int] = []
    for a in borda:
        at = len(order)
        while at and votes[a][order[at - 1]] > votes[order[at - 1]][a]:
            at -= 1
        order.insert(at, a)
    return order
