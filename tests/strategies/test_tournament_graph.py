from __future__ import annotations

import random
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


def shuffled(n: int, seed: int) -> list[int]:
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return order


def test_the_puzzle_of_25_horses_takes_seven_races(play: Play) -> None:
    """The paper's figure 2, with its order of the horses: five races at once, their winners, and one more race."""
    horses = list(range(1, 26))
    random.Random(42).shuffle(horses)
    played = play("tournament_graph,size=5,top_k=3", horses)
    assert list(map(len, played.rounds)) == [5, 1, 1]
    assert [set(played.rounds[1][0]), set(played.rounds[2][0])] == [{1, 2, 3, 6, 10}, {2, 3, 4, 8, 12}]
    assert played.result[:3] == [1, 2, 3]


@pytest.mark.parametrize(("selector", "calls"), [("", range(6, 8)), ("size=10", range(12, 16))])
def test_calls_for_a_hundred_documents_are_those_of_the_papers_table_5(play: Play, selector: str, calls: range) -> None:
    for seed in range(20):
        played = play(f"tournament_graph,{selector}".rstrip(","), shuffled(100, seed))
        assert played.calls in calls
        assert played.result[:10] == list(range(10))


def test_the_best_document_is_found_by_the_calls_of_proposition_62(play: Play) -> None:
    for seed in range(20):
        assert play("tournament_graph,size=5,top_k=1", shuffled(41, seed)).calls <= 10  # ceil((41 - 1) / (5 - 1))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 22), st.integers(1, 30), st.integers(0, 90), st.randoms(use_true_random=False))
def test_the_head_is_correct_before_the_maximum_is_reached(
    play: Play, size: int, top_k: int, n: int, chance: Any
) -> None:
    order = list(range(n))
    chance.shuffle(order)
    played = play(f"tournament_graph,size={size},top_k={top_k}", order)
    assert played.result[:top_k] == list(range(n))[:top_k]
    assert sorted(played.result) == list(range(n))
    assert played.calls <= played.bound
    assert all(2 <= len(window) <= size for window in played.windows)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 22), st.integers(1, 30), st.integers(0, 60), st.randoms(use_true_random=False))
def test_a_judge_that_contradicts_itself_ends_too(play: Play, size: int, top_k: int, n: int, chance: Any) -> None:
    def moody(window: Window) -> list[int]:
        order = list(range(len(window)))
        chance.shuffle(order)
        return order

    played = play(f"tournament_graph,size={size},top_k={top_k}", range(n), moody)
    assert sorted(played.result) == list(range(n))
    assert played.calls <= played.bound


def test_documents_in_a_cycle_are_tied_and_keep_their_order(play: Play) -> None:
    """The second window contradicts the first one: 0 and 1 become a tier, in which each has won once."""
    answers = iter(([0, 1, 2], [1, 0, 2], [0, 1]))
    played = play("tournament_graph,size=3,top_k=4", range(4), lambda window: next(answers))
    assert played.rounds == [[[0, 1, 2]], [[0, 1, 3]], [[2, 3]]]
    assert played.result == [0, 1, 2, 3]


def test_documents_in_a_cycle_are_sorted_by_their_wins(play: Play) -> None:
    """3 > 2 > 1 > 0, then 1 > 3 > 2 > 4. In the tier of 1, 2 and 3, only 3 > 2 was never contradicted."""
    answers = iter(([3, 2, 1, 0], [0, 2, 1, 3], [0, 1]))
    played = play("tournament_graph,size=4,top_k=5", range(5), lambda window: next(answers))
    assert played.rounds == [[[0, 1, 2, 3]], [[1, 2, 3, 4]], [[0, 4]]]
    assert played.result == [3, 1, 2, 0, 4]


@pytest.mark.parametrize(("selector", "message"), [("size=1", "size is 1"), ("top_k=0", "top_k is 0")])
def test_options_that_cannot_work(selector: str, message: str) -> None:
    with raises(UsageError, message):
        open_strategy(f"tournament_graph,{selector}")
