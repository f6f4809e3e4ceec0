"""Layout of plots of effectiveness against cost, with the Pareto front. The page template draws the plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 16, 46
#: If the ratio of the largest to the smallest cost exceeds this value, the scale is logarithmic.
_WIDE = 20.0
#: Costs up to this value are drawn as zero.
_NOTHING = 1e-12
#: Approximate maximum number of labels on a logarithmic axis.
_TICKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotPoint:
    """A run in the plot. ``x`` and ``y`` are SVG coordinates, measured from the upper left corner."""

    run: int
    x: float
    y: float
    front: bool
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPlot:
    """A plot of effectiveness against cost.

    Attributes:
        points: One point per run with a known cost.
        line: Points of the Pareto front by increasing cost, as the ``points`` attribute of an SVG polyline.
        x_ticks: Positions and labels of the horizontal axis.
        y_ticks: Positions and labels of the vertical axis.
        unknown: Indexes of the runs with unknown cost.
        logarithmic: True if the cost axis is logarithmic.
    """

    points: tuple[PlotPoint, ...]
    line: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
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


def layout_cost_plot(costs: Sequence[float | None], values: Sequence[float]) -> ScatterPlot | None:
    """Compute the layout of a plot. Return None if no cost is known.

    Args:
        costs: Cost per query of each run, at least 0; None if the cost is unknown.
        values: Effectiveness of each run.
    """
    known = [
        (at, float(cost) if cost > _NOTHING else 0.0, values[at]) for at, cost in enumerate(costs) if cost is not None
    ]
    if not known:
        return None
    scale = _Scale([cost for _, cost, _ in known])
    low, high, step = _cost_axis_span([value for _, _, value in known])
    down = (HEIGHT - TOP - BOTTOM) / (high - low)
    front = pareto_front_of_board([cost for _, cost, _ in known], [value for _, _, value in known])
    points = []
    for place, (at, cost, value) in enumerate(known):
        x = scale.at(cost)
        anchor = "end" if x > LEFT + 0.7 * (WIDTH - LEFT - RIGHT) else "start"
        y = TOP + (high - value) * down
        points.append(PlotPoint(run=at, x=round(x, 1), y=round(y, 1), front=place in front, anchor=anchor))
    ticks = [low + n * step for n in range(round((high - low) / step) + 1)]
    return ScatterPlot(
        points=tuple(points),
        line=" ".join(f"{points[place].x},{points[place].y}" for place in front),
        x_ticks=tuple(scale.ticks()),
        y_ticks=tuple((round(TOP + (high - tick) * down, 1), f"{tick:.2f}") for tick in ticks),
        unknown=tuple(at for at, cost in enumerate(costs) if cost is None),
        logarithmic=scale.logarithmic,
    )


class _Scale:
    """Scale that maps costs to horizontal positions. On a logarithmic scale, 0 has its own position at the left."""

    def __init__(self, costs: Sequence[float]) -> None:
        above = [cost for cost in costs if cost > 0]
        self.logarithmic = bool(above) and max(above) / min(above) > _WIDE
        self.zero = len(above) < len(costs)
        if self.logarithmic:
            self.low, self.high = float(math.floor(math.log10(min(above)))), float(math.ceil(math.log10(max(above))))
            self.start = LEFT + (60 if self.zero else 10)
        else:
            self.low, self.high, self.step = _round_cost_axis(0.0, max(above, default=1.0))
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
    """Return the lower bound, the upper bound and the step of an axis, with a margin around the values."""
    low, high = min(values), max(values)
    margin = max(0.02, 0.08 * (high - low))
    return _round_cost_axis(max(0.0, low - margin), min(1.0, high + margin) if high <= 1 else high + margin)


def _round_cost_axis(low: float, high: float) -> tuple[float, float, float]:
    raw = (high - low or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * (1 - 1e-9))
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _format_cost_tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
