"""Labels of points: one each, in the frame, on nothing else."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from rerank.leaderboard.cost_plot import CHARACTER, LINE, PlotLabel, place_labels

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
