"""The Pareto front and where points stand."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.leaderboard.cost_plot import BOTTOM, LEFT, RIGHT, TOP, WIDTH, ScatterPlot, layout_cost_plot, pareto_front


def drawn_of(costs: list[float | None], means: list[float]) -> ScatterPlot | None:
    """The plot of runs with two topics."""
    return layout_cost_plot(
        costs, [[mean / 2, 3 * mean / 2] for mean in means], [f"run {at}" for at in range(len(means))]
    )


Numbers = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12)


@given(Numbers)
def test_the_front_is_what_no_other_beats(pairs: list[tuple[int, int]]) -> None:
    def beaten(at: int) -> bool:
        cost, value = pairs[at]
        return any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in pairs)

    found = pareto_front([cost for cost, _ in pairs], [value for _, value in pairs])
    assert sorted(found) == [at for at in range(len(pairs)) if not beaten(at)]
    assert [pairs[at][0] for at in found] == sorted(pairs[at][0] for at in found)


@given(st.lists(st.tuples(st.none() | st.floats(0, 1e7), st.floats(0, 1)), min_size=1, max_size=9))
def test_every_known_point_lies_in_the_frame(pairs: list[tuple[float | None, float]]) -> None:
    drawn = drawn_of([cost for cost, _ in pairs], [value for _, value in pairs])
    known = [at for at, (cost, _) in enumerate(pairs) if cost is not None]
    if not known:
        assert drawn is None
        return
    assert drawn is not None
    assert [point.run for point in drawn.points] == known
    assert sorted([*drawn.unknown, *known]) == list(range(len(pairs)))
    for point, (tick, _) in product(drawn.points, drawn.x_ticks):
        assert LEFT <= point.x <= WIDTH - RIGHT
        assert LEFT <= tick <= WIDTH - RIGHT
        assert TOP - 0.1 <= point.y <= drawn.height - BOTTOM + 0.1


def test_dearer_is_further_right_and_better_is_higher() -> None:
    drawn = drawn_of([0, 10, 1000], [0.2, 0.5, 0.9])
    assert drawn is not None
    assert drawn.logarithmic
    xs, ys = [point.x for point in drawn.points], [point.y for point in drawn.points]
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    assert drawn.x_ticks[0][1] == "0"
    assert [label for _, label in drawn.x_ticks[1:]] == ["10", "100", "1,000"]


def test_near_costs_are_on_a_straight_scale() -> None:
    drawn = drawn_of([1.0, 2.0], [0.2, 0.5])
    assert drawn is not None
    assert not drawn.logarithmic
    assert drawn.points[1].x - drawn.points[0].x == pytest.approx(drawn.points[0].x - LEFT - 10, abs=0.2)


def test_the_band_and_the_line_lie_in_the_frame() -> None:
    drawn = layout_cost_plot([1, 2, 3], [[0.0, 0.2, 0.9], [0.5, 0.1, 0.4], [1.0, 0.9, 0.0]], ["a", "b", "c" * 60])
    assert drawn is not None
    for corner in f"{drawn.line} {drawn.band}".split():
        x, y = map(float, corner.split(","))
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= drawn.height - BOTTOM
    assert len(drawn.points[2].name) < 60
    assert [point.front for point in drawn.points] == [True, False, True]
