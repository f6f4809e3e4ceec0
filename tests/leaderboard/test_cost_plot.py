"""The Pareto front and where points stand."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.leaderboard.cost_plot import (
    BOTTOM,
    CHARACTER,
    LEFT,
    LINE,
    RIGHT,
    TOP,
    WIDTH,
    PlotLabel,
    ScatterPlot,
    bootstrap_front,
    layout_cost_plot,
    pareto_front,
    place_labels,
    sample_topics,
)


def drawn_of(costs: list[float | None], means: list[float]) -> ScatterPlot | None:
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


def test_shares_and_band() -> None:
    chance = np.random.default_rng(3)
    costs, values = [3.0, 1.0, 3.0, 0.0, 2.0], chance.uniform(0, 1, (5, 17))
    found = bootstrap_front(costs, values)
    assert found.draws == 1000
    drawn = np.array(sample_topics(17, 1000 * 17)).reshape(1000, 17)
    on, best = np.zeros(5), np.zeros((1000, 4))
    for draw, topics in enumerate(drawn):
        means = np.round(values[:, topics].mean(axis=1), 12)
        on[pareto_front(costs, means.tolist())] += 1
        best[draw] = [max(means[np.array(costs) <= level]) for level in (0, 1, 2, 3)]
    assert found.shares == pytest.approx(on / 1000)
    assert found.low == pytest.approx(np.sort(best, axis=0)[25])
    assert found.high == pytest.approx(np.sort(best, axis=0)[974])
    assert found.best == pytest.approx([max(values.mean(axis=1)[np.array(costs) <= level]) for level in (0, 1, 2, 3)])
    assert found.lowest <= found.low.min()


def test_every_topic_is_drawn_about_equally_often() -> None:
    counts = np.bincount(sample_topics(43, 43_000), minlength=43)
    assert counts.sum() == 43_000
    assert 850 < counts.min() <= counts.max() < 1150


def test_many_topics_get_fewer_samples() -> None:
    assert bootstrap_front([1.0, 2.0], np.ones((2, 5000))).draws == 200


def test_equal_runs_share_the_front() -> None:
    found = bootstrap_front([1.0, 1.0, 1.0], np.array([[0.2, 0.4], [0.2, 0.4], [0.1, 0.1]]))
    assert found.shares.tolist() == [1.0, 1.0, 0.0]


def test_runs_with_equal_means_tie_in_every_sample() -> None:
    first = np.random.default_rng(0).integers(0, 11, 43)
    second = np.concatenate([first[:20][::-1], first[20:]])
    drawn = np.array(sample_topics(43, 1000 * 43)).reshape(1000, 43)
    better = second[drawn].sum(axis=1) > first[drawn].sum(axis=1)  # of whole numbers, without rounding
    assert bootstrap_front([1.0, 2.0], np.stack([first, second]) / 10).shares.tolist() == [1.0, better.mean()]


FRAME = (0.0, 0.0, 900.0, 500.0)


def box(label: PlotLabel, text: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a label."""
    wide = len(text) * CHARACTER
    left = label.x - wide if label.anchor == "end" else label.x
    return left, label.y + 3 - LINE, left + wide, label.y + 3


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 0.2 and min(a[3], b[3]) - max(a[1], b[1]) > 0.2


def test_labels_cover_no_label_no_point_and_no_line() -> None:
    chance = np.random.default_rng(1)
    points = [(float(x), float(y)) for x, y in chance.uniform((100, 20), (800, 480), (40, 2))]
    points[30:] = [points[0]] * 10  # equal results, as repeats of one model have
    texts = [f"run number {at} 100%" for at in range(40)]
    line = [(100.0, 400.0), (500.0, 400.0), (500.0, 200.0), (900.0, 200.0)]
    labels = place_labels(points, texts, FRAME, line)
    boxes = [box(label, text) for label, text in zip(labels, texts, strict=True)]
    assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
    assert all(left >= 0 and top >= 0 and right <= 900.1 and low <= 500.1 for left, top, right, low in boxes)
    things = [(x - 4, y - 4, x + 4, y + 4) for x, y in points] + [
        (100.0, 399.0, 500.0, 401.0),
        (500.0, 199.0, 900.0, 201.0),
    ]
    assert not any(overlap(a, b) for a in boxes for b in things)
    assert any(label.leader for label in labels)


def test_a_label_that_fits_nowhere_is_still_placed() -> None:
    (label,) = place_labels([(5.0, 5.0)], ["much too long"], (0.0, 0.0, 20.0, 20.0))
    assert label.x == 0
