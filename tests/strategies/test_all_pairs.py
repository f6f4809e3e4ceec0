from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerank.strategies import setwise
from rerank.types import Window

Play = Callable[..., Any]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(12)), st.integers(0, 12))
def test_everything_is_sorted(play: Play, order: list[int], n: int) -> None:
    order = [number for number in order if number < n]
    played = play("all_pairs", order)
    assert played.result == sorted(order)
    assert played.calls == played.bound == n * (n - 1)
    assert len(played.rounds) == (n > 1)


def test_every_pair_is_asked_in_both_orders(play: Play) -> None:
    (asked,) = play("all_pairs", range(5)).rounds
    assert sorted(map(tuple, asked)) == sorted(pair for a, b in combinations(range(5), 2) for pair in ((a, b), (b, a)))


def test_pairs_of_many_documents_are_made_when_they_are_needed(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    order = [number * 7 % 30 for number in range(30)]
    whole = play("all_pairs", order)
    monkeypatch.setattr(setwise, "_PAIRS", 100)
    parts = play("all_pairs", order)
    assert [len(asked) for asked in parts.rounds] == [100] * 8 + [70]
    assert (parts.result, parts.calls) == (whole.result, whole.calls)
    assert len(whole.rounds) == 1


@pytest.mark.parametrize("favourite", [0, 1])
def test_a_choice_that_depends_on_the_order_is_half_a_win(play: Play, favourite: int) -> None:
    """2 beats all; between the others only the place decides, so they stay as given."""

    def biased(window: Window) -> list[int]:
        ids = [doc.id for doc in window.docs]
        chosen = ids.index("2") if "2" in ids else favourite
        return [chosen, 1 - chosen]

    assert play("all_pairs", [4, 3, 2, 1, 0], biased).result == [2, 4, 3, 1, 0]
