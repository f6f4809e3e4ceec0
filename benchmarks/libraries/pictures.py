"""Effectiveness against cost: ours, an SVG that the page's template draws, against matplotlib and plotly."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable, Sequence
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import jinja2
import numpy as np

from libraries.processes import Settings, added, cpu_seconds, import_seconds
from rerank.leaderboard.cost_plot import BOTTOM, LEFT, RIGHT, TOP, WIDTH, layout_cost_plot, pareto_front

RUNS = 60
MEASURE, AXIS, KIND = "nDCG@10", "tokens per query", "tokens"
NAMES = [f"run-{run}" for run in range(RUNS)]
HEIGHT = 900


def measure(settings: Settings) -> dict[str, Any]:
    """Compare time, size, and what the page can use of each picture."""
    random = np.random.default_rng(0)
    costs: list[float] = (10 ** random.uniform(2, 5.5, RUNS)).round().tolist()
    values: list[float] = (0.25 + 0.12 * np.log10(costs) / 5.5 + random.normal(0, 0.06, RUNS)).round(4).tolist()
    draw_own = _own_painter()
    ways: dict[str, Callable[[], str]] = {
        "ours": lambda: draw_own(costs, values),
        "matplotlib": lambda: _matplotlib(costs, values),
    }
    try:
        import plotly  # noqa: F401
    except ModuleNotFoundError:
        skipped = "plotly is not installed: pip install plotly"
    else:
        skipped, ways["plotly"] = "", lambda: _plotly(costs, values)
    rows: dict[str, Any] = {name: _row(way, settings.repeat) for name, way in ways.items()}
    return {
        **rows,
        "skipped": skipped,
        "import_seconds": import_seconds(
            settings.repeat,
            ours="from rerank.leaderboard import cost_plot",
            matplotlib="from matplotlib.figure import Figure; from matplotlib.backends import backend_svg",
        ),
        "added": {name: added(name) for name in ways if name != "ours"},
    }


def _row(draw: Callable[[], str], repeat: int) -> dict[str, Any]:
    first = cpu_seconds(draw)
    later = [cpu_seconds(draw) for _ in range(repeat)]
    picture = draw()
    return {
        "first_cpu_ms": round(1000 * first, 1),
        "later_cpu_ms": round(1000 * statistics.median(later), 1),
        "bytes": len(picture.encode()),
        "same_bytes_twice": picture == draw(),
        "runs_that_a_script_can_find": len(set(re.findall(r'(?:data-run="|id="run-)(\d+)"', picture))),
        "tooltips": len(re.findall(r"<title>[^<]*: ", picture)),
        "colours_in_the_picture": len(set(re.findall(r"#[0-9a-f]{6}\b", picture))),
    }


def _own_painter() -> Callable[[Sequence[float], Sequence[float]], str]:
    """Return a function that draws with the template's own macro."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"ranges": str, "amount": lambda value: f"{value:,.0f}", "address": bool, "figure": str}
    template = environment.from_string((files("rerank.leaderboard") / "site.html.j2").read_text(encoding="utf-8"))
    frame = {"width": WIDTH, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    module: Any = template.make_module({"views": [], "costs": [], "facets": {}, "frame": frame})

    def draw(costs: Sequence[float], values: Sequence[float]) -> str:
        entries = [SimpleNamespace(name=name) for name in NAMES]
        plan = SimpleNamespace(title="runs")
        view = SimpleNamespace(
            board=SimpleNamespace(entries=entries, plan=plan), costs=[{KIND: cost} for cost in costs]
        )
        table = SimpleNamespace(measure=MEASURE, runs=[SimpleNamespace(mean=value) for value in values])
        drawn = SimpleNamespace(
            kind=KIND, axis=AXIS, plot=layout_cost_plot(costs, [[value] for value in values], NAMES)
        )
        return str(module.picture(view, table, drawn))

    return draw


def _matplotlib(costs: Sequence[float], values: Sequence[float]) -> str:
    """Draw the same with matplotlib: text stays text, and each run has an id that a script can find."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "listrank"}):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        axes = figure.add_subplot()
        front = pareto_front(costs, values)
        axes.plot([costs[run] for run in front], [values[run] for run in front], color="#4a90c4")
        for run, (cost, value) in enumerate(zip(costs, values, strict=True)):
            (point,) = axes.plot([cost], [value], marker="o", markersize=6 if run in front else 4, color="#4a90c4")
            point.set_gid(f"run-{run}")
            if run in front:
                axes.annotate(f"run-{run}", (cost, value), textcoords="offset points", xytext=(9, 8))
        axes.set_xscale("log")
        axes.set_xlabel(f"{AXIS}, logarithmic")
        axes.set_ylabel(MEASURE)
        axes.grid(visible=True)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def _plotly(costs: Sequence[float], values: Sequence[float]) -> str:
    """Draw with plotly, its script in the page, since the site must open without a network."""
    from plotly import graph_objects

    front = pareto_front(costs, values)
    figure = graph_objects.Figure(
        [
            graph_objects.Scatter(x=list(costs), y=list(values), text=NAMES, mode="markers"),
            graph_objects.Scatter(x=[costs[run] for run in front], y=[values[run] for run in front], mode="lines"),
        ]
    )
    figure.update_xaxes(type="log", title=AXIS)
    figure.update_yaxes(title=MEASURE)
    return str(figure.to_html(full_html=False, include_plotlyjs=True, div_id="picture"))
