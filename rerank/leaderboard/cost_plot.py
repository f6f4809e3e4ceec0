"""Layout of plots of effectiveness against cost, with the Pareto front. The page template draws the plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rerank.leaderboard.bootstrapped_front import bootstrap_front
from rerank.leaderboard.plot_labels import PlotLabel, place_plot_labels

WIDTH = 960
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 46
#: Height of a plot with up to _FEW points, height that each further point adds for its label, and maximum height.
_HEIGHT, _FEW, _PER_POINT, _HIGHEST = 420, 12, 10, 900
#: Longest label, in characters.
_LABEL = 44
#: If the ratio of the largest to the smallest cost exceeds this value, the scale is logarithmic.
_WIDE = 20.0
#: Costs up to this value are drawn as zero.
_NOTHING = 1e-12
#: Approximate maximum number of labels on a logarithmic axis.
_TICKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotPoint:
    """A run in a plot. ``x`` and ``y`` are SVG coordinates, measured from the upper left corner.

    ``share`` is the fraction of the bootstrap samples of topics in which the run is on the Pareto front.
    """

    run: int
    x: float
    y: float
    front: bool
    share: float
    name: str
    label: PlotLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPlot:
    """A plot of effectiveness against cost.

    Attributes:
        height: Height in SVG units; the width is `WIDTH`.
        points: One point per run with a known cost.
        line: Points of the Pareto front by increasing cost, as the ``points`` attribute of an SVG polyline with steps.
        band: The central 95 % of the fronts of the bootstrap samples, as the ``points`` attribute of an SVG polygon.
        x_ticks: Positions and labels of the horizontal axis.
        y_ticks: Positions and labels of the vertical axis.
        draws: Number of bootstrap samples.
        y_scale: The value at the upper edge, and the number of SVG units per unit of the measure.
        unknown: Indexes of the runs with unknown cost.
        logarithmic: True if the cost axis is logarithmic.
    """

    height: int
    points: tuple[PlotPoint, ...]
    line: str
    band: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    y_scale: tuple[float, float]
    draws: int
    unknown: tuple[int, ...]
    logarithmic: bool


def pareto_front_of_board(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return the indexes of the runs on the Pareto front, by increasing cost.

    A run is on the front if no other run is at least as good in both cost and value and better in one of them.

    >>> pareto_front_of_board([1, 2, 3, 3], [0.5, 0.4, 0.7, 0.6])
    [0, 2]
    """
    order = sorted(range(len(costs)), key=lambda at: (costs[at], -values[at]))
    front: list[int] = []
    for at in order:
        if not front or values[at] > values[front[-1]]:
            front.append(at)
        elif values[at] == values[front[-1]] and costs[at] == costs[front[-1]]:
            front.append(at)  # equal in both: neither dominates the other
    return front


def layout_cost_plot(
    costs: Sequence[float | None], values: Sequence[Sequence[float]], names: Sequence[str]
) -> ScatterPlot | None:
    """Compute the layout of a plot of effectiveness against cost. Return None if no cost is known.

    Args:
        costs: Cost of each run, at least 0; None if the cost is unknown.
        values: Scores of shape (runs, topics).
        names: Names of the runs.
    """
    runs = [at for at, cost in enumerate(costs) if cost is not None]
    if not runs:
        return None
    known = [float(cost) if cost > _NOTHING else 0.0 for cost in costs if cost is not None]
    scores = np.array([values[at] for at in runs], dtype=np.float64)
    means = scores.mean(axis=1).tolist()
    scale = _Scale(known)
    height = min(_HIGHEST, _HEIGHT + _PER_POINT * max(0, len(runs) - _FEW))
    drawn = bootstrap_front(known, scores)
    low, high, step = _cost_axis_span([*means, drawn.lowest, *drawn.high.tolist()])
    down = (height - TOP - BOTTOM) / (high - low)
    ticks = [low + n * step for n in range(round((high - low) / step) + 1)]
    to_y = partial(_plot_height_of_value, high=high, down=down, bottom=height - BOTTOM)
    xs = [scale.at(cost) for cost in drawn.levels]
    lower, upper, line = (_steps_of_front(xs, [*map(to_y, bound)]) for bound in (drawn.low, drawn.high, drawn.best))
    return ScatterPlot(
        height=height,
        points=_label_plot_points(
            runs,
            [(round(scale.at(cost), 1), round(to_y(mean), 1)) for cost, mean in zip(known, means, strict=True)],
            set(pareto_front_of_board(known, means)),
            drawn.shares.tolist(),
            names,
            (LEFT + 2.0, TOP - 8.0, WIDTH - 2.0, height - BOTTOM - 2.0),
            line,
        ),
        line=_format_plot_points(line),
        band=_format_plot_points([*upper, *reversed(lower)]),
        x_ticks=tuple(scale.ticks()),
        y_ticks=tuple((round(to_y(tick), 1), f"{tick:.2f}") for tick in ticks),
        y_scale=(high, down),
        draws=drawn.draws,
        unknown=tuple(at for at, cost in enumerate(costs) if cost is None),
        logarithmic=scale.logarithmic,
    )


def _plot_height_of_value(value: float, *, high: float, down: float, bottom: float) -> float:
    """Return the vertical coordinate of a value, limited to the frame of the plot."""
    return min(bottom, max(float(TOP), TOP + (high - value) * down))


def _label_plot_points(
    runs: Sequence[int],
    places: Sequence[tuple[float, float]],
    front: set[int],
    shares: Sequence[float],
    names: Sequence[str],
    area: tuple[float, float, float, float],
    line: Sequence[tuple[float, float]],
) -> tuple[PlotPoint, ...]:
    """Return the points with labels. Points on the Pareto front are labelled first, so their labels are nearest."""
    order = sorted(range(len(runs)), key=lambda at: (at not in front, -shares[at], places[at][1]))
    short = [name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…" for name in (names[run] for run in runs)]
    # Reserve the width of the largest share, since a filter on the page can change the share.
    labels = place_plot_labels([places[at] for at in order], [f"{short[at]} 100%" for at in order], area, line)
    label_of = dict(zip(order, labels, strict=True))
    return tuple(
        PlotPoint(run=run, x=x, y=y, front=at in front, share=shares[at], name=short[at], label=label_of[at])
        for at, (run, (x, y)) in enumerate(zip(runs, places, strict=True))
    )


def _steps_of_front(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    """Return the corners of the Pareto front as a step line: flat up to the next cost or the right edge."""
    ends = [*xs[1:], float(WIDTH - RIGHT)]
    return [corner for x, end, y in zip(xs, ends, ys, strict=True) for corner in ((x, y), (end, y))]


def _format_plot_points(points: Sequence[tuple[float, float]]) -> str:
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
            self.low, self.high, self.step = round_plot_axis(0.0, max(above, default=1.0))
            self.start = LEFT + 10

    def at(self, cost: float) -> float:
        if self.logarithmic and cost == 0:
            return LEFT + 16
        value = math.log10(cost) if self.logarithmic else cost
        return self.start + (value - self.low) / (self.high - self.low) * (WIDTH - RIGHT - 10 - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        if not self.logarithmic:
            many = round((self.high - self.low) / self.step)
            return [
                (round(self.at(v), 1), _format_cost_tick(v))
                for v in (self.low + n * self.step for n in range(many + 1))
            ]
        zero = [(self.at(0), "0")] if self.zero else []
        every = max(1, math.ceil((self.high - self.low) / _TICKS))
        powers = range(int(self.low), int(self.high) + 1, every)
        return zero + [(round(self.at(10.0**n), 1), _format_cost_tick(10.0**n)) for n in powers]


def _cost_axis_span(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower bound, upper bound and tick step of an axis that shows the values with a margin."""
    low, high = min(values), max(values)
    margin = max(0.01, 0.03 * (high - low))
    return round_plot_axis(max(0.0, low - margin), min(1.0, high + margin) if high <= 1 else high + margin, 8)


def round_plot_axis(low: float, high: float, steps: int = 5) -> tuple[float, float, float]:
    """Return round bounds of an axis that contains two values, and a step size that gives about ``steps`` steps."""
    raw = (high - low or 1.0) / steps
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * (1 - 1e-9))
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _format_cost_tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
