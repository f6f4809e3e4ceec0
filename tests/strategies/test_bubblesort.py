from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank.errors import UsageError
from rerank.strategies import open_strategy
from tests.raising import raises

Play = Callable[..., Any]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 7), st.integers(1, 12), st.booleans(), st.permutations(range(25)), st.integers(0, 25))
def test_the_best_rise_one_a_walk(play: Play, size: int, top_k: int, both: bool, order: list[int], n: int) -> None:
    order = [number for number in order if number < n]
    played = play(f"bubblesort,size={size},top_k={top_k},both_orders={both}", order)
    assert played.result[:top_k] == sorted(order)[:top_k]
    assert sorted(played.result) == sorted(order)
    assert played.calls <= played.bound
    assert all(2 <= len(window) <= size and window.best == 1 for window in played.windows)


@pytest.mark.parametrize(("size", "both"), [(2, False), (3, False), (3, True), (4, False)])
def test_the_bound_is_the_formula_and_pairs_reach_it(play: Play, size: int, both: bool) -> None:
    played = play(f"bubblesort,size={size},both_orders={both}", list(reversed(range(100))))
    assert played.bound == sum(ceil((99 - p) / (size - 1)) for p in range(10)) * (1 + both)
    assert played.calls <= played.bound
    if size == 2:
        assert played.calls == played.bound == 945


def test_windows_share_one_document_and_every_one_is_seen(play: Play) -> None:
    (first, second, third, *_) = (shown for (shown,) in play("bubblesort,top_k=1", range(8), range_of).rounds)
    assert (first, second, third) == ([5, 6, 7], [3, 4, 5], [1, 2, 3])


def range_of(window: Any) -> range:
    return range(len(window))


def test_a_list_in_order_is_asked_about_once(play: Play) -> None:
    """Pairs that stand as they stood have been asked: what is sorted takes n - 1, however many walks."""
    assert play("bubblesort,size=2", range(100)).calls == 99


def test_a_judge_that_looks_at_places_moves_nothing(play: Play) -> None:
    for sort in (range_of, lambda window: [*reversed(range_of(window))]):
        assert play("bubblesort,size=2,both_orders=true", range(20), sort).result == list(range(20))
    turned = play("bubblesort,size=2", range(20), lambda window: [*reversed(range_of(window))])
    assert turned.result != list(range(20))  # without the second order it would


@pytest.mark.parametrize(("selector", "message"), [("size=1", "1"), ("top_k=0", "top_k is 0")])
def test_options_that_cannot_work(selector: str, message: str) -> None:
    with raises(UsageError, message):
        open_strategy(f"bubblesort,{selector}")
