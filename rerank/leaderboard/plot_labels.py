"""Placement of the labels of a scatter plot, so that labels do not cover points, lines or other labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

#: Height of a line, and average width of a character, in SVG units for a font size of 11.
LINE, CHARACTER = 13.0, 6.3
#: Radius of the largest point, with a margin.
_POINT = 7.0
#: Maximum distance between a label and its point without a line that connects them.
_NEAR = 14.0
_DIRECTIONS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotLabel:
    """Position of the label of a point, in SVG coordinates.

    Attributes:
        x: Horizontal position of the end of the text that is nearer to the point. A text that is wider than estimated
            extends away from the point.
        y: Vertical position of the baseline of the text.
        anchor: ``end`` if the text is to the left of the point, otherwise ``start``.
        leader: End of a line from the point to the label; None if the label needs no line.
    """

    x: float
    y: float
    anchor: str
    leader: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, wide) * max(0.0, high)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


def place_plot_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    frame: tuple[float, float, float, float],
    line: Sequence[tuple[float, float]] = (),
) -> list[PlotLabel]:
    """Place one label per point.

    Labels are placed one after the other, each at the nearest free position around its point. If there is no free
    position within the frame, a label gets the position where it covers the smallest area.

    Args:
        points: Coordinates of the points. Labels of earlier points are placed first.
        texts: One text per point.
        frame: Left, top, right and bottom of the area for labels.
        line: Corners of a line with horizontal and vertical parts, which labels also avoid.
    """
    area = _Box(*frame)
    taken = [_Box(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    taken += [_Box(min(a, c) - 2, min(b, d) - 2, max(a, c) + 2, max(b, d) + 2) for (a, b), (c, d) in pairwise(line)]
    labels = []
    for (x, y), text in zip(points, texts, strict=True):
        size = (len(text) * CHARACTER, LINE)
        inside = [box for box in _boxes_around_point(x, y, size, area) if box.overlap(area) > size[0] * size[1] - 0.01]
        covered = ((sum(box.overlap(other) for other in taken), box) for box in inside)
        best: tuple[float, _Box] | None = None
        for cost, box in covered:
            if best is None or cost < best[0]:
                best = cost, box
            if cost == 0:
                break
        box = best[1] if best else _Box(area.left, area.top, area.left + size[0], area.top + size[1])
        taken.append(box)
        end = box.nearest(x, y)
        leader = None if math.dist(end, (x, y)) <= _NEAR else (round(end[0], 1), round(end[1], 1))
        anchor, side = ("end", box.right) if box.right <= x else ("start", box.left)
        labels.append(PlotLabel(x=round(side, 1), y=round(box.bottom - 3, 1), anchor=anchor, leader=leader))
    return labels


def _boxes_around_point(x: float, y: float, size: tuple[float, float], area: _Box) -> list[_Box]:
    """Return possible positions of a label, as boxes: beside the point, then on rings of increasing radius."""
    wide, high = size
    boxes = [
        _Box(x + 8, y - high / 2, x + 8 + wide, y + high / 2),
        _Box(x - 8 - wide, y - high / 2, x - 8, y + high / 2),
    ]
    radius = 12.0
    while radius < max(area.right - area.left, area.bottom - area.top):
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            # The edge of the box that faces the point lies on the ring.
            middle_x = x + math.cos(angle) * (radius + wide / 2)
            middle_y = y + math.sin(angle) * (radius + high / 2)
            boxes.append(_Box(middle_x - wide / 2, middle_y - high / 2, middle_x + wide / 2, middle_y + high / 2))
        radius += 10
    return boxes
