from __future__ import annotations

import random

from rerank.strategies.base import PreferenceGraph


def test_figure_2_of_the_paper() -> None:
    """The losses and wins (below each horse) after rounds 5, 6 and 7 of the puzzle of 25 horses."""
    horses = list(range(1, 26))
    random.Random(42).shuffle(horses)
    graph = PreferenceGraph(26)

    def race(*runners: int) -> None:
        graph.add_order(sorted(runners), len(runners))

    def stats(horse: int) -> tuple[int, int]:
        return graph.count_better(horse), graph.count_worse(horse)

    for start in range(0, 25, 5):
        race(*horses[start : start + 5])
    assert [stats(horse) for horse in (1, 4, 8, 9, 21)] == [(0, 4), (1, 3), (2, 2), (3, 1), (4, 0)]
    race(10, 6, 2, 3, 1)
    assert [stats(horse) for horse in (10, 6, 2, 3, 1)] == [(4, 4), (3, 9), (1, 19), (2, 14), (0, 24)]
    race(2, 3, 4, 8, 12)
    assert [stats(horse) for horse in (1, 2, 3, 4, 8, 12)] == [(0, 24), (1, 23), (2, 22), (3, 7), (4, 6), (5, 3)]
    assert [stats(horse) for horse in (5, 6, 10)] == [(3, 3), (3, 9), (4, 4)]


def test_figure_3_of_the_paper_cycles_are_tiers() -> None:
    """a > {b, c, d} > e > f, where b > c > d > b."""
    graph = PreferenceGraph(6)
    for order in ([0, 1, 2, 3], [3, 1], [0, 3, 4, 5], [1, 4], [2, 4]):
        graph.add_order(order, len(order))
    assert [graph.count_better(position) for position in range(6)] == [0, 1, 1, 1, 4, 5]
    assert [graph.count_worse(position) for position in range(6)] == [5, 2, 2, 2, 1, 0]
    assert [graph.tier(position) for position in range(6)] == [0b1, 0b1110, 0b1110, 0b1110, 0b10000, 0b100000]
    assert [graph.count_net_wins_in_tier(position) for position in range(6)] == [0, 1, 0, -1, 0, 0]
    assert all(map(graph.is_resolved, range(6)))


def test_documents_that_were_not_ranked_are_only_below_the_ranked_ones() -> None:
    graph = PreferenceGraph(5)
    graph.add_order([2, 0, 4, 3], 2)
    assert graph.below == [0b11000, 0, 0b11001, 0, 0]
    assert [graph.is_resolved(position) for position in range(5)] == [False] * 5
    graph.add_order([2, 1], 2)
    assert [graph.is_resolved(position) for position in range(5)] == [False, False, True, False, False]
