"""Layout of plots of effectiveness against cost: labels, and the Pareto front with its uncertainty over topics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from rerank.evaluation.significance.base import Floats

#: Height of a line, and average width of a character, in SVG units for a font size of 11.
LINE, CHARACTER = 13.0, 6.3
_POINT = 7.0  #: Radius of the largest point, with a margin.
_NEAR = 14.0  #: Maximum distance between a label and its point without a line that connects them.
_DIRECTIONS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotLabel:
    """Position of the label of a point, in SVG coordinates."""

    #: Horizontal position of the end of the text that is nearer to the point. A text that is wider than estimated
    #: extends away from the point.
    x: float
    y: float  #: Vertical position of the baseline of the text.
    anchor: str  #: ``end`` if the text is to the left of the point, otherwise ``start``.
    leader: tuple[float, float] | None  #: End of a line from the point to the label; None if the label needs no line.


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


def place_labels(
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    frame: tuple[float, float, float, float],
    line: Sequence[tuple[float, float]] = (),
) -> list[PlotLabel]:
    """Place one label per point, in this order: each at the nearest free position around its point.

    If there is no free position within the frame (left, top, right and bottom), a label gets the position where it
    covers the smallest area. ``line`` has horizontal and vertical parts, which labels also avoid.
    """
    area = _Box(*frame)
    taken = [_Box(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    taken += [_Box(min(a, c) - 2, min(b, d) - 2, max(a, c) + 2, max(b, d) + 2) for (a, b), (c, d) in pairwise(line)]
    labels = []
    for (x, y), text in zip(points, texts, strict=True):
        size = (len(text) * CHARACTER, LINE)
        inside = [box for box in _boxes_around_point(x, y, size, area) if box.overlap(area) > size[0] * size[1] - 0.01]
        best: tuple[float, _Box] | None = None
        for box in inside:
            cost = sum(box.overlap(other) for other in taken)
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


WIDTH = 960
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 46
#: Height of a plot with up to _FEW points, height that each further point adds for its label, and maximum height.
_HEIGHT, _FEW, _PER_POINT, _HIGHEST = 420, 12, 10, 900
_LABEL = 44  #: Longest label, in characters.
#: If the ratio of the largest to the smallest cost exceeds this value, the scale is logarithmic.
_WIDE = 20.0
_NOTHING = 1e-12  #: Costs up to this value are drawn as zero.
_TICKS = 8  #: Approximate maximum number of labels on a logarithmic axis.


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotPoint:
    """A run in a plot, in SVG coordinates; ``share`` is the fraction of samples in which it is on the front."""

    run: int
    x: float
    y: float
    front: bool
    share: float
    name: str
    label: PlotLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPlot:
    """A plot of effectiveness against cost."""

    height: int  #: Height in SVG units; the width is `WIDTH`.
    points: tuple[PlotPoint, ...]  #: One point per run with a known cost.
    line: str  #: Pareto front by increasing cost, as the ``points`` attribute of an SVG polyline with steps.
    #: At each cost, the central 95 % of the bootstrap samples, as the ``points`` attribute of an SVG polygon.
    band: str
    x_ticks: tuple[tuple[float, str], ...]  #: Positions and labels of the horizontal axis.
    y_ticks: tuple[tuple[float, str], ...]
    y_scale: tuple[float, float]  #: The value at the upper edge, and the number of SVG units per unit of the measure.
    draws: int  #: Number of bootstrap samples.
    unknown: tuple[int, ...]  #: Indexes of the runs with unknown cost.
    logarithmic: bool  #: True if the cost axis is logarithmic.


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the indexes of the runs on the Pareto front, by increasing cost.

    A run is on the front if no other run is at least as good in both cost and value and better in one of them.

    >>> pareto_front([1, 2, 3, 3], [0.5, 0.4, 0.7, 0.6])
    [0, 2]
    """
    front: list[int] = []
    for at in sorted(range(len(costs)), key=lambda at: (costs[at], -values[at])):
        if not front or values[at] > values[front[-1]]:
            front.append(at)
        elif values[at] == values[front[-1]] and costs[at] == costs[front[-1]]:
            front.append(at)  # equal in both: neither dominates the other
    return front


def layout_cost_plot(
    costs: Sequence[float | None], values: Sequence[Sequence[float]], names: Sequence[str]
) -> ScatterPlot | None:
    """Lay out a plot of effectiveness, from (runs, topics) scores, against cost; None if no cost is known."""
    runs = [at for at, cost in enumerate(costs) if cost is not None]
    if not runs:
        return None
    known = [float(cost) if cost > _NOTHING else 0.0 for cost in costs if cost is not None]
    scores = np.array([values[at] for at in runs], dtype=np.float64)
    means = scores.mean(axis=1).tolist()
    scale = _Scale(known)
    height = min(_HIGHEST, _HEIGHT + _PER_POINT * max(0, len(runs) - _FEW))
    drawn = bootstrap_front(known, scores)
    shown = [*means, drawn.lowest, *drawn.high.tolist()]
    low, high = min(shown), max(shown)
    margin = max(0.01, 0.03 * (high - low))
    low, high, step = round_axis(max(0.0, low - margin), min(1.0, high + margin) if high <= 1 else high + margin, 8)
    down = (height - TOP - BOTTOM) / (high - low)
    ticks = [low + n * step for n in range(round((high - low) / step) + 1)]

    def to_y(value: float) -> float:
        return min(height - BOTTOM, max(float(TOP), TOP + (high - value) * down))  # limited to the frame of the plot

    xs = [scale.at(cost) for cost in drawn.levels]
    lower, upper, line = (_steps_of_front(xs, [*map(to_y, bound)]) for bound in (drawn.low, drawn.high, drawn.best))
    places = [(round(scale.at(cost), 1), round(to_y(mean), 1)) for cost, mean in zip(known, means, strict=True)]
    front, shares = set(pareto_front(known, means)), drawn.shares.tolist()
    # Points on the Pareto front are labelled first, so their labels are nearest. A label has the width of the largest
    # share, since a filter on the page can change the share.
    order = sorted(range(len(runs)), key=lambda at: (at not in front, -shares[at], places[at][1]))
    short = [name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…" for name in (names[run] for run in runs)]
    area = (LEFT + 2.0, TOP - 8.0, WIDTH - 2.0, height - BOTTOM - 2.0)
    labels = place_labels([places[at] for at in order], [f"{short[at]} 100%" for at in order], area, line)
    label_of = dict(zip(order, labels, strict=True))
    return ScatterPlot(
        height=height,
        points=tuple(
            PlotPoint(run=run, x=x, y=y, front=at in front, share=shares[at], name=short[at], label=label_of[at])
            for at, (run, (x, y)) in enumerate(zip(runs, places, strict=True))
        ),
        line=_format_points(line),
        band=_format_points([*upper, *reversed(lower)]),
        x_ticks=tuple(scale.ticks()),
        y_ticks=tuple((round(to_y(tick), 1), f"{tick:.2f}") for tick in ticks),
        y_scale=(high, down),
        draws=drawn.draws,
        unknown=tuple(at for at, cost in enumerate(costs) if cost is None),
        logarithmic=scale.logarithmic,
    )


def _steps_of_front(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of the Pareto front as a step line: flat up to the next cost or the right edge."""
    ends = [*xs[1:], float(WIDTH - RIGHT)]
    return [corner for x, end, y in zip(xs, ends, ys, strict=True) for corner in ((x, y), (end, y))]


def _format_points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


class _Scale:
    """Horizontal axis of a cost plot, linear or logarithmic. On a logarithmic axis, 0 has its own place at the left."""

    def __init__(self, costs: Sequence[float]) -> None:
        above = [cost for cost in costs if cost > 0]
        self.logarithmic = bool(above) and max(above) / min(above) > _WIDE
        self.zero = len(above) < len(costs)
        if self.logarithmic:
            self.low, self.high = float(math.floor(math.log10(min(above)))), float(math.ceil(math.log10(max(above))))
            self.start = LEFT + (60 if self.zero else 10)
        else:
            self.low, self.high, self.step = round_axis(0.0, max(above, default=1.0))
            self.start = LEFT + 10

    def at(self, cost: float) -> float:
        if self.logarithmic and cost == 0:
            return LEFT + 16
        value = math.log10(cost) if self.logarithmic else cost
        return self.start + (value - self.low) / (self.high - self.low) * (WIDTH - RIGHT - 10 - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        if not self.logarithmic:
            values = (self.low + n * self.step for n in range(round((self.high - self.low) / self.step) + 1))
            return [(round(self.at(value), 1), _format_tick(value)) for value in values]
        zero = [(self.at(0), "0")] if self.zero else []
        powers = range(int(self.low), int(self.high) + 1, max(1, math.ceil((self.high - self.low) / _TICKS)))
        return zero + [(round(self.at(10.0**n), 1), _format_tick(10.0**n)) for n in powers]


def round_axis(low: float, high: float, steps: int = 5) -> tuple[float, float, float]:
    """Return round bounds of an axis that contains two values, and a step size that gives about ``steps`` steps."""
    raw = (high - low or 1.0) / steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * (1 - 1e-9))
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _format_tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


#: Maximum and minimum number of bootstrap samples. Between them, all samples together contain at most _DRAWN topics,
#: because the page repeats the bootstrap while its reader types.
_MOST, _FEWEST, _DRAWN = 1000, 100, 1_000_000
_DECIMALS = 9  #: Decimals of the means of samples.
TAIL = 0.025  #: Fraction of the samples below and above the band.


@dataclass(frozen=True, eq=False, kw_only=True)
class BootstrappedFront:
    """Pareto front of effectiveness against cost, with its uncertainty. Only runs with a known cost are included."""

    shares: Floats  #: (runs,) fraction of the bootstrap samples in which each run is on the front.
    levels: Floats  #: (levels,) distinct costs in ascending order.
    best: Floats  #: (levels,) best mean among the runs that cost at most each level.
    low: Floats  #: (levels,) lower bound of the central 95 % of the best means of the samples.
    high: Floats  #: (levels,) upper bound of the central 95 %.
    draws: int  #: Number of bootstrap samples.
    lowest: float  #: Smallest lower bound of the mean of any run. No selection of runs has a band that is below it.


def bootstrap_front(costs: Sequence[float], values: Floats) -> BootstrappedFront:
    """Compute the Pareto front of mean score against cost, and its uncertainty, from (runs, topics) scores."""
    levels, level_of_run = np.unique(np.asarray(costs, dtype=np.float64), return_inverse=True)
    # Means of shape (runs, draws + 1): one column per sample; the last column is the mean over the original topics.
    counts = _count_sampled_topics(values.shape[1])
    # Rounding makes runs with equal means tie whatever the order of addition, here and on the page.
    means = np.column_stack([values @ counts.T / values.shape[1], values.mean(axis=1)]).round(_DECIMALS)
    highest = np.stack([means[level_of_run == level].max(axis=0) for level in range(len(levels))])
    envelope = np.maximum.accumulate(highest, axis=0)
    cheaper = np.vstack([np.full(means.shape[1], -np.inf), envelope[:-1]])
    on_front = (means == highest[level_of_run]) & (means > cheaper[level_of_run])
    ordered = np.sort(envelope[:, :-1], axis=1)
    draws = len(counts)
    first = int(TAIL * draws)
    return BootstrappedFront(
        shares=on_front[:, :-1].mean(axis=1),
        levels=levels,
        best=envelope[:, -1],
        low=ordered[:, first],
        high=ordered[:, draws - 1 - first],
        draws=draws,
        lowest=float(np.sort(means[:, :-1], axis=1)[:, first].min()),
    )


@cache
def _count_sampled_topics(topics: int) -> Floats:
    """Return how often each sample contains each topic, as an array of shape (draws, topics)."""
    draws = max(_FEWEST, min(_MOST, _DRAWN // topics))
    counts = np.zeros((draws, topics))
    for draw, topic in enumerate(sample_topics(topics, draws * topics)):
        counts[draw // topics, topic] += 1
    return counts


def sample_topics(topics: int, count: int) -> list[int]:
    """Draw ``count`` topic indexes with replacement by xorshift32, which JavaScript can reproduce exactly.

    Source: Marsaglia, "Xorshift RNGs", Journal of Statistical Software 2003, with the shifts 13, 17 and 5.
    """
    state, drawn = 2463534242, []
    for _ in range(count):
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        drawn.append(state * topics >> 32)
    return drawn
