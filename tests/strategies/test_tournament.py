from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank.errors import UsageError
from rerank.strategies import open_strategy
from rerank.types import Window
from tests.raising import raises

Play = Callable[..., Any]


def test_the_published_tournament_of_a_hundred(play: Play) -> None:
    played = play("tournament", range(100))
    assert [[(len(shown), window.best) for shown, window in zip(round_, windows, strict=True)] for round_, windows in
            zip(played.rounds, split(played), strict=True)] == [
        [(20, 10)] * 5,
        [(10, 4)] * 5,
        [(20, 10)],
        [(10, 5)],
        [(5, 2)],
    ]  # fmt: skip
    assert played.calls == played.bound == 13


def test_groups_have_at_most_twenty_documents_by_default(play: Play) -> None:
    assert [len(play("tournament", range(n)).rounds[0]) for n in (20, 21)] == [1, 2]


def split(played: Any) -> list[list[Window]]:
    windows = iter(played.windows)
    return [[next(windows) for _ in round_] for round_ in played.rounds]


def test_groups_are_dealt_like_seeds_and_shuffled(play: Play) -> None:
    first = play("tournament", range(100)).rounds[0]
    assert [sorted(shown) for shown in first] == [list(range(group, 100, 5)) for group in range(5)]
    assert all(shown != sorted(shown) for shown in first)


def test_shuffles_come_from_the_seed_and_the_query(play: Play) -> None:
    asked = [
        play(f"tournament,seed={seed}", range(40), query=query).rounds
        for seed, query in ((0, "q"), (0, "q"), (1, "q"), (0, "r"))
    ]
    assert asked[0] == asked[1]
    assert asked[0] != asked[2]
    assert asked[0] != asked[3]


def test_tournaments_are_played_side_by_side(play: Play) -> None:
    played = play("tournament,passes=3", range(100))
    assert list(map(len, played.rounds)) == [15, 15, 3, 3, 3]
    groups = [sorted(shown) for shown in played.rounds[0]]
    assert groups[:5] == groups[5:10] == groups[10:]  # the same groups ...
    assert played.rounds[0][0] != played.rounds[0][5]  # ... in other orders


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 25), st.integers(0, 70), st.integers(1, 2), st.randoms(use_true_random=False))
def test_any_length_and_any_size(play: Play, size: int, n: int, passes: int, chance: Any) -> None:
    order = list(range(n))
    chance.shuffle(order)
    played = play(f"tournament,size={size},passes={passes}", order)
    assert played.calls == played.bound
    assert sorted(played.result) == list(range(n))
    assert played.result[:1] == [0][:n]
    assert all(2 <= len(window) <= size for window in played.windows)
    assert all(1 <= window.depth <= len(window) for window in played.windows)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.permutations(range(100)), st.integers(1, 3))
def test_four_of_a_hundred_are_in_order(play: Play, order: list[int], passes: int) -> None:
    assert play(f"tournament,passes={passes}", order).result[:4] == [0, 1, 2, 3]


def test_points_of_several_tournaments_are_added(play: Play) -> None:
    """A judge of place: with one tournament chance decides; with many, nobody is far ahead."""

    def first(window: Window) -> range:
        return range(len(window))

    assert play("tournament", range(40), first).result[:20] != list(range(20))
    one, many = (play(f"tournament,passes={passes}", range(40), first).result for passes in (1, 9))
    assert one != many


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_short_lists(play: Play, n: int) -> None:
    played = play("tournament", list(reversed(range(n))))
    assert played.result[:2] == [0, 1]
    assert played.calls == played.bound


@pytest.mark.parametrize(("selector", "message"), [("size=1", "1"), ("passes=0", "0")])
def test_options_that_cannot_work(selector: str, message: str) -> None:
    with raises(UsageError, message):
        open_strategy(f"tournament,{selector}")
