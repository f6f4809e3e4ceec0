"""Plots of comparisons: per-topic differences of two systems, and p-values of all pairs. Each has its own figure."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rerank.errors import MissingPrerequisiteError, UsageError
from rerank.evaluation.baseline_comparison import BaselineComparison
from rerank.evaluation.pairwise_decisions import PairwiseDecisions
from rerank.evaluation.significance import TITLES
from rerank.installation import install_command
from rerank.io.text_files import check_file_writable, replace_binary_file

#: Supported file name extensions.
FORMS = (".png", ".svg", ".pdf")
#: Divisors that give the steps of the colour scale: p <= alpha, alpha / 5 and alpha / 50 (0.05, 0.01 and 0.001).
_STEPS = (1, 5, 50)
_COLOURS = ("#e4e4e4", "#a9cce6", "#4a90c4", "#0b3c6f")  # not significant, then p from large to small
_BETTER, _WORSE = "#2b6ca3", "#c8611f"
#: Largest number of systems for which p-values are printed in the plot.
_WRITTEN = 12
#: Largest number of topics for which topic ids are printed.
_NAMED = 80


def plot_comparison(decisions: PairwiseDecisions, path: str | Path) -> None:
    """Plot the per-topic differences of two systems or, for more than two systems, a heat map of the p-values."""
    systems = decisions.matrix.systems
    if len(systems) == 2:
        plot_topic_differences(decisions, systems[0], systems[1], path)
    else:
        plot_p_values(decisions, path)


def check_path(path: str | Path) -> None:
    """Check, before expensive computations, that a plot can be written to a path."""
    if Path(path).suffix.lower() not in FORMS:
        raise UsageError(
            f"The plot file {str(path)!r} has an unsupported extension",
            expected=f"a file name that ends in one of {', '.join(FORMS)}",
        )
    check_file_writable(path, "plot")
    _figure_class()


def plot_topic_differences(decisions: PairwiseDecisions, a: str, b: str, path: str | Path) -> None:
    """Plot the difference of ``a`` minus ``b`` on every topic, from largest to smallest, and the mean difference."""
    matrix = decisions.matrix
    deltas = matrix.deltas(a, b)
    order = np.argsort(-deltas, kind="stable")
    positions, mean = np.arange(len(order)), float(deltas.mean())
    better, worse = int((deltas > 0).sum()), int((deltas < 0).sum())
    with _axes(path, width=min(14.0, 4 + 0.13 * len(order)), height=4.2) as axes:
        axes.bar(positions, deltas[order], color=[_BETTER if d > 0 else _WORSE for d in deltas[order]], width=0.8)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.axhline(mean, color="black", linewidth=0.8, linestyle="--", label=f"mean {mean:+.4f}")
        axes.set_title(f"{_shorten(a)} minus {_shorten(b)}", fontsize=10)
        axes.set_ylabel(f"difference of {matrix.measure or 'scores'}")
        axes.set_xlabel(f"{len(order)} topics: {better} better, {len(order) - better - worse} equal, {worse} worse")
        axes.margins(x=0.01)
        if len(order) <= _NAMED:
            axes.set_xticks(positions, [_shorten(matrix.topics[index], 12) for index in order], rotation=90, fontsize=6)
        else:
            axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right")


def plot_p_values(decisions: PairwiseDecisions, path: str | Path) -> None:
    """Plot a heat map of the corrected p-values of all pairs. The row is the better system; dark means small."""
    check_path(path)
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    matrix, significant = decisions.matrix, int(decisions.significant.sum())
    order = np.argsort(-matrix.values.mean(axis=0), kind="stable")
    names, count = [_shorten(matrix.systems[index]) for index in order], len(order)
    first, second = np.triu_indices(count, 1)
    # (systems, systems) symmetric matrix of p-values, reordered by mean; only the upper triangle is shown
    full = np.full((count, count), np.nan)
    full[first, second] = full[second, first] = decisions.p_values()[1]
    p = np.where(np.tri(count, dtype=bool), np.nan, full[np.ix_(order, order)])
    is_significant = np.zeros((count, count), dtype=bool)
    is_significant[first, second] = is_significant[second, first] = decisions.significant
    # indices into _COLOURS, masked where the p-value is NaN
    reached: Any = sum((p <= decisions.alpha / step).astype(int) for step in _STEPS)
    steps: Any = np.ma.masked_where(np.isnan(p), is_significant[np.ix_(order, order)] * reached)
    measure = f"{matrix.measure}: " if matrix.measure else ""
    side = max(4.5, min(14.0, 2.5 + 0.32 * count))
    with _axes(path, width=side, height=side + 0.6) as axes:
        axes.imshow(
            steps, cmap=ListedColormap(_COLOURS), norm=BoundaryNorm([0, 1, 2, 3, 4], 4), interpolation="nearest"
        )
        size = max(3.0, min(9.0, 420 / count))
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(
            f"{measure}{decisions.title}, correction {TITLES[decisions.correction]}\n"
            f"{significant} of {len(decisions.significant)} pairs: the row is significantly better",
            fontsize=9,
        )
        bounds = [decisions.alpha / step for step in _STEPS]
        labels = [f"p > {bounds[0]:g}", *(f"p <= {bound:g}" for bound in bounds)]
        patches = [Patch(color=colour, label=label) for colour, label in zip(_COLOURS, labels, strict=True)]
        axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(0, 0.32), frameon=False, fontsize=8)
        for row, column in np.argwhere(~np.isnan(p)) if count <= _WRITTEN else ():
            dark = steps[row, column] >= 2
            value = p[row, column]
            text = f"{value:.3f}" if value >= 0.0005 else "<.001"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")


def plot_baseline_comparison(comparison: BaselineComparison, path: str | Path) -> None:
    """Plot the differences from the baseline on the first measure with simultaneous intervals, best run at the top."""
    measure, family = comparison.family.measures[0], comparison.family
    rows = [row for row in comparison.sorted_rows() if row.measure == measure][::-1]
    with _axes(path, width=7.5, height=1.6 + 0.26 * len(rows)) as axes:
        for place, row in enumerate(rows):
            colour = "black" if not row.significant else _BETTER if row.difference > 0 else _WORSE
            axes.plot(row.simultaneous_interval, [place, place], color=colour, linewidth=1.2)
            axes.plot([row.difference], [place], "o", color=colour, markersize=4)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [_shorten(row.run) for row in rows], fontsize=8)
        axes.set_xlabel(f"{measure} minus that of {_shorten(comparison.baseline)}", fontsize=9)
        axes.set_title(
            f"Simultaneous {100 * (1 - family.alpha):g}% intervals; colour: significant by {family.title}, "
            f"correction {TITLES[family.correction]}",
            fontsize=8,
        )
        axes.spines[["top", "right"]].set_visible(False)


@contextmanager
def _axes(path: str | Path, *, width: float, height: float) -> Iterator[Any]:
    """Yield matplotlib axes to draw on. On exit, write the plot to the file."""
    check_path(path)
    figure = _figure_class()(figsize=(width, height), layout="constrained")
    yield figure.add_subplot()
    form, buffer = Path(path).suffix.lower().removeprefix("."), io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    with replace_binary_file(path) as file:
        file.write(buffer.getvalue())


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPrerequisiteError(
            "matplotlib is not installed, but plots need it", remedy=f"Run: {install_command('plots')}"
        ) from error
    return Figure


def _shorten(name: str, limit: int = 36) -> str:
    """Shorten a long name to its end, where paths differ. ``$`` is escaped, because it would start a formula."""
    return (name if len(name) <= limit else f"…{name[1 - limit :]}").replace("$", r"\$")
