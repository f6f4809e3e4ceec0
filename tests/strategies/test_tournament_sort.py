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


def test_a_tournament_by_hand(play: Play) -> None:
    """Windows of three: 0 wins; 1 was behind it in the first window and 2 in the final one."""
    played = play("tournament_sort,size=3,top_k=3", [1, 5, 0, 4, 2, 7, 3, 6, 8])
    assert played.rounds == [[[1, 5, 0], [4, 2, 7], [3, 6, 8]], [[0, 2, 3]], [[1, 2]], [[5, 2]]]
    assert played.result == [0, 1, 2, 5, 4, 3, 7, 6, 8]  # 5, 4 and 3 are worse than three documents


def test_a_hundred_documents_in_random_order(play: Play) -> None:
    passages = []
    for seed in range(20):
        order = list(range(100))
        random.Random(seed).shuffle(order)
        played = play("tournament_sort", order)
        assert list(map(len, played.rounds)) == [5] + [1] * 10
        assert played.result[:10] == list(range(10))
        passages.append(sum(map(len, played.windows)))
    assert 125 <= sum(passages) / len(passages) <= 135


def test_no_two_documents_meet_twice(play: Play) -> None:
    played = play("tournament_sort,size=4,top_k=40", [*range(1, 40, 2), *range(0, 40, 2)])
    pairs = [{a.id, b.id} for window in played.windows for a in window.docs for b in window.docs if a.id < b.id]
    assert len(pairs) == len({frozenset(pair) for pair in pairs})
    assert played.result == list(range(40))


def test_a_window_ranks_only_what_can_still_be_wanted(play: Play) -> None:
    played = play("tournament_sort,top_k=3", list(reversed(range(50))))
    assert [window.best for window in played.windows] == [3, 3, 3, 3, 2, 1]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 22), st.integers(1, 30), st.integers(0, 90), st.randoms(use_true_random=False), st.booleans())
def test_any_length_and_any_size(play: Play, size: int, top_k: int, n: int, chance: Any, is_moody: bool) -> None:
    def moody(window: Window) -> list[int]:
        answer = list(range(len(window)))
        chance.shuffle(answer)
        return answer

    order = list(range(n))
    chance.shuffle(order)
    judge = (moody,) if is_moody else ()
    played = play(f"tournament_sort,size={size},top_k={top_k}", order, *judge)
    assert sorted(played.result) == list(range(n))
    assert played.calls <= played.bound
    assert all(2 <= len(window) <= size for window in played.windows)
    if not is_moody:
        assert played.result[:top_k] == list(range(n))[:top_k]


def test_windows_without_an_answer_keep_the_order(play: Play) -> None:
    def silent(window: Window) -> range:
        return range(len(window))

    assert play("tournament_sort", range(100), silent).result[:10] == list(range(10))


@pytest.mark.parametrize(("selector", "message"), [("size=1", "size is 1"), ("top_k=0", "top_k is 0")])
def test_options_that_cannot_work(selector: str, message: str) -> None:
    with raises(UsageError, message):
        open_strategy(f"tournament_sort,{selector}")
