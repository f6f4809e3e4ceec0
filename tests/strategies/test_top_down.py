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


def test_a_good_first_stage_takes_six(play: Play) -> None:
    played = play("top_down", range(100))
    assert list(map(len, played.rounds)) == [1, 5]
    assert played.result == list(range(100))


def test_one_more_where_something_better_is_found(play: Play) -> None:
    order = list(range(100))
    order[3], order[77] = 77, 3
    played = play("top_down", order)
    assert list(map(len, played.rounds)) == [1, 5, 1]
    assert played.result[:10] == list(range(10))
    assert played.calls == played.bound == 7


def test_all_others_meet_the_pivot(play: Play) -> None:
    head, others = play("top_down", range(100)).rounds
    assert head == [list(range(20))]
    assert [shown[0] for shown in others] == [9] * 5
    assert [number for shown in others for number in shown[1:]] == list(range(20, 100))
    assert max(map(len, others)) == 20


def backwards(window: Window) -> list[int]:
    return [*reversed(range(len(window)))]


@pytest.mark.parametrize("selector", ["", "budget=100", "budget=40,size=10", "top_k=5", "size=3", "size=3,budget=500"])
@pytest.mark.parametrize("n", [2, 20, 21, 39, 40, 100, 101, 500])
def test_the_bound_is_reached_by_a_judge_that_prefers_everything_to_the_pivot(
    play: Play, selector: str, n: int
) -> None:
    played = play(f"top_down,{selector}".rstrip(","), range(n), backwards)
    assert played.calls == played.bound


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(3, 22), st.integers(1, 30), st.integers(0, 90), st.randoms(use_true_random=False))
def test_any_length_and_any_size(play: Play, size: int, top_k: int, n: int, chance: Any) -> None:
    order = list(range(n))
    chance.shuffle(order)
    for budget, sure in (("", 1), (f",budget={n + 1}", min(top_k, size - 1))):
        played = play(f"top_down,size={size},top_k={top_k}{budget}", order)
        assert played.result[:sure] == list(range(n))[:sure]
        assert sorted(played.result) == list(range(n))
        assert played.calls <= played.bound
        assert all(2 <= len(window) <= size for window in played.windows)


def test_the_best_of_a_very_long_list_is_not_lost_in_the_budget(play: Play) -> None:
    assert play("top_down", list(reversed(range(2000)))).result[0] == 0


def test_windows_without_an_answer_raise_nobody(play: Play) -> None:
    def silent(window: Window) -> range:
        return range(len(window))

    assert play("top_down", range(100), silent).result == list(range(100))


@pytest.mark.parametrize(
    ("selector", "message"), [("size=2", "2"), ("budget=0", "budget is 0"), ("top_k=0", "top_k is 0")]
)
def test_options_that_cannot_work(selector: str, message: str) -> None:
    with raises(UsageError, message):
        open_strategy(f"top_down,{selector}")
