from __future__ import annotations

import math
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
options = st.tuples(st.integers(2, 6), st.integers(1, 12), st.booleans())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options, st.permutations(range(33)), st.integers(0, 33))
def test_the_best_are_in_order_and_the_rest_as_given(
    play: Play, chosen: tuple[int, int, bool], order: list[int], n: int
) -> None:
    size, top_k, both = chosen
    order = [number for number in order if number < n]
    played = play(f"heapsort,size={size},top_k={top_k},both_orders={both}", order)
    best = sorted(order)[:top_k]
    assert played.result == [*best, *(number for number in order if number not in best)]
    assert played.calls <= played.bound
    assert all(2 <= len(window) <= size and window.best == 1 for window in played.windows)


def heights(n: int) -> int:
    """The sum of the heights of all nodes of a binary heap, counted down to leaves one by one."""
    return sum(height(node, n) for node in range(n))


def height(node: int, n: int) -> int:
    return 1 + height(2 * node + 1, n) if 2 * node + 1 < n else 0


@pytest.mark.parametrize("n", [2, 3, 10, 31, 32, 100])
def test_the_bound_is_the_formula_and_close(play: Play, n: int) -> None:
    played = play("heapsort", list(reversed(range(n))))
    assert played.bound == heights(n) + sum(height(0, n - taken) for taken in range(1, min(10, n)))
    assert 0.85 * played.bound <= played.calls <= played.bound


@pytest.mark.parametrize(("selector", "calls"), [("size=3", 151), ("size=2", 300), ("size=2,both_orders=true", 600)])
def test_counts_of_a_hundred(selector: str, calls: int) -> None:
    assert open_strategy(f"heapsort,{selector}").calls(100) == calls


def test_published_average(play: Play) -> None:
    """About 125 to 130 windows of three on real lists: half of the heap is leaves, and sinking often ends early."""
    order = sorted(range(100), key=lambda number: math.sin(number * 12.9898))
    assert 115 <= play("heapsort", order).calls <= 151


def test_nodes_of_one_depth_sink_side_by_side(play: Play) -> None:
    played = play("heapsort", list(reversed(range(100))))
    assert len(played.rounds[0]) == 19  # nodes 31 to 49, the last depth with children
    assert len(played.rounds) < 80 < played.calls


@pytest.mark.parametrize("top_k", [3, 10, 20])
def test_a_judge_that_cannot_decide_changes_nothing(play: Play, top_k: int) -> None:
    def first(window: Window) -> range:
        return range(len(window))

    def last(window: Window) -> list[int]:
        return [*reversed(range(len(window)))]

    assert play(f"heapsort,top_k={top_k}", range(20), first).result == list(range(20))
    for sort in (first, last):
        assert play(f"heapsort,size=2,both_orders=true,top_k={top_k}", range(20), sort).result == list(range(20))


def test_more_documents_in_a_window_make_a_broader_heap(play: Play) -> None:
    assert max(map(len, play("heapsort,size=5", range(40)).windows)) == 5
    assert open_strategy("heapsort,size=10").calls(100) < open_strategy("heapsort").calls(100)
    assert max(map(len, play("heapsort,size=2,children=4", range(40)).windows)) == 2


@pytest.mark.parametrize(
    ("selector", "message"), [("size=1", "1"), ("top_k=0", "top_k is 0"), ("children=0", "children per node is 0")]
)
def test_options_that_cannot_work(selector: str, message: str) -> None:
    with raises(UsageError, message):
        open_strategy(f"heapsort,{selector}")
