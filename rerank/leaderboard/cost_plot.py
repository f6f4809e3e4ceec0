"""Effectiveness against cost: which runs no other beats at both, and where they stand in a picture.

Knows numbers, no runs; the template draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 16, 46
#: Costs that span more than this are drawn on a logarithmic scale.
_WIDE = 20.0
#: Up to here a cost is drawn as none.
_NOTHING = 1e-12
#: About as many powers of ten are written below a logarithmic scale.
_TICKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotPoint:
    """One run in the picture; x and y in units of the picture, from its upper left corner."""

    run: int
    x: float
    y: float
    front: bool
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPlot:
    """The picture.

    Attributes:
        points: One for each run of known cost.
        line: Points of the Pareto front as SVG writes them, from the cheapest on.
        x_ticks: Places and labels below.
        y_ticks: Places and labels at the left.
        unknown: The runs whose cost is not known.
        logarithmic: Whether the scale of the costs is.
    """

    points: tuple[PlotPoint, ...]
    line: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    unknown: tuple[int, ...]
    logarithmic: bool


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Places of those that no other beats: none is as cheap and as good, and better at one of the two.

    >>> pareto([1, 2, 3, 3], [0.5, 0.4, 0.7, 0.6])
    [0, 2]
    """
    order = sorted(range(len(costs)), key=lambda at: (costs[at], -values[at]))
    front: list[int] = []
    for at in order:
        if not front or values[at] > values[front[-1]]:
            front.append(at)
        elif values[at] == values[front[-1]] and costs[at] == costs[front[-1]]:
            front.append(at)  # equal in both: neither beats the other
    return front


def layout_plot(costs: Sequence[float | None], values: Sequence[float]) -> ScatterPlot | None:
    """Lay a picture out; None where no cost is known.

    Args:
        costs: What each run costs a query, 0 or more; None where that is not known.
        values: Its effectiveness.
    """
    known = [
        (at, float(cost) if cost > _NOTHING else 0.0, values[at]) for at, cost in enumerate(costs) if cost is not None
    ]
    if not known:
        return None
    scale = _Scale([cost for _, cost, _ in known])
    low, high, step = _span([value for _, _, value in known])
    down = (HEIGHT - TOP - BOTTOM) / (high - low)
    front = pareto_front([cost for _, cost, _ in known], [value for _, _, value in known])
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
    """Costs -> places from left to right. On a logarithmic scale, 0 has a place of its own at the left."""

    def __init__(self, costs: Sequence[float]) -> None:
        above = [cost for cost in costs if cost > 0]
        self.logarithmic = bool(above) and max(above) / min(above) > _WIDE
        self.zero = len(above) < len(costs)
        if self.logarithmic:
            self.low, self.high = float(math.floor(math.log10(min(above)))), float(math.ceil(math.log10(max(above))))
            self.start = LEFT + (60 if self.zero else 10)
        else:
            self.low, self.high, self.step = _round_span(0.0, max(above, default=1.0))
            self.start = LEFT + 10

    def at(self, cost: float) -> float:
        if self.logarithmic and cost == 0:
            return LEFT + 16
        value = math.log10(cost) if self.logarithmic else cost
        return self.start + (value - self.low) / (self.high - self.low) * (WIDTH - RIGHT - 10 - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        if not self.logarithmic:
            many = round((self.high - self.low) / self.step)
            return [(round(self.at(v), 1), _short(v)) for v in (self.low + n * self.step for n in range(many + 1))]
        zero = [(self.at(0), "0")] if self.zero else []
        every = max(1, math.ceil((self.high - self.low) / _TICKS))
        powers = range(int(self.low), int(self.high) + 1, every)
        return zero + [(round(self.at(10.0**n), 1), _short(10.0**n)) for n in powers]


def _span(values: Sequence[float]) -> tuple[float, float, float]:
    """The bounds of an axis and its steps, with room around the values."""
    low, high = min(values), max(values)
    room = max(0.02, 0.08 * (high - low))
    return _round_span(max(0.0, low - room), min(1.0, high + room) if high <= 1 else high + room)


def _round_span(low: float, high: float) -> tuple[float, float, float]:
    raw = (high - low or 1.0) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= raw * (1 - 1e-9))
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
