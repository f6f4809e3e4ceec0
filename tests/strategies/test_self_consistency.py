from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank.errors import UsageError
from rerank.strategies import open_strategy
from rerank.types import Window
from tests.raising import raises

Play = Callable[..., Any]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(30)), st.integers(0, 30), st.integers(1, 4), st.none() | st.integers(1, 9))
def test_a_perfect_judge_is_followed(play: Play, order: list[int], n: int, passes: int, top_k: int | None) -> None:
    order = [number for number in order if number < n]
    played = play(f"self_consistency,passes={passes}" + (f",top_k={top_k}" if top_k else ""), order)
    assert played.result[:top_k] == sorted(order)[:top_k]
    assert played.calls == played.bound == (passes if n > 1 else 0)
    assert len(played.rounds) == (n > 1)


def test_orders_are_random_and_come_from_seed_and_query(play: Play) -> None:
    first, again, seed, query = (
        play(f"self_consistency,seed={seed}", range(12), query=query).rounds
        for seed, query in ((0, "q"), (0, "q"), (1, "q"), (0, "r"))
    )
    assert first == again
    assert first not in (seed, query)
    (asked,) = first
    assert len({tuple(shown) for shown in asked}) == 5
    assert list(range(12)) not in asked


def test_a_bias_for_places_averages_out(play: Play) -> None:
    """A judge that is right but for a push towards whoever stands in front: together its answers are nearly right."""

    def biased(window: Window) -> list[int]:
        return sorted(range(len(window)), key=lambda at: int(window.docs[at].id) + 0.8 * at)

    def wrong(result: list[int]) -> int:
        return sum(a > b for i, a in enumerate(result) for b in result[i + 1 :])

    order = list(range(20))
    random.Random(5).shuffle(order)
    one, twenty = (play(f"self_consistency,passes={passes}", order, biased).result for passes in (1, 20))
    assert wrong(twenty) < wrong(one) / 2


def test_what_is_not_ranked_stays_as_given(play: Play) -> None:
    order = [5, 9, 1, 8, 0, 7]
    assert play("self_consistency,top_k=2", order).result == [0, 1, 5, 9, 8, 7]


def test_no_passes() -> None:
    with raises(UsageError, "passes is 0"):
        open_strategy("self_consistency,passes=0")
