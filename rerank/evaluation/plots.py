"""Pictures of a comparison: two systems query by query, and the p-values of all pairs. Decides nothing.

Drawn with matplotlib (the extra ``plots``) on figures of their own, so that no global state of it is read or changed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rerank.errors import MissingPrerequisiteError, StorageError, UsageError
from rerank.evaluation.pairs import Decisions
from rerank.evaluation.significance import TITLES
from rerank.io.text_files import check_writable

#: What a picture's name may end in.
FORMS = (".png", ".svg", ".pdf")
#: p-values are shown in steps: at most the level, a fifth and a fiftieth of it (0.05, 0.01, 0.001).
_STEPS = (1, 5, 50)
_COLOURS = ("#e4e4e4", "#a9cce6", "#4a90c4", "#0b3c6f")  # not significant, then ever smaller p
_BETTER, _WORSE = "#2b6ca3", "#c8611f"
#: Up to so many systems their p-values are written into the picture.
_WRITTEN = 12
#: Up to so many queries are named.
_NAMED = 80


def plot(decisions: Decisions, path: str | Path) -> None:
    """Draw what suits the number of systems: two query by query, more as a heat map of their p-values.

    Args:
        decisions: What was tested and found.
        path: Ends in .png, .svg or .pdf.

    Raises:
        UsageError: Another ending.
        MissingPrerequisiteError: matplotlib is not installed.
        MissingResourceError: The folder is not there.
    """
    systems = decisions.matrix.systems
    if len(systems) == 2:
        plot_differences(decisions, systems[0], systems[1], path)
    else:
        plot_p_values(decisions, path)


def check_plot(path: str | Path) -> None:
    """See whether a picture could be drawn there, before the work that it shows; raises as `plot` does."""
    if Path(path).suffix.lower() not in FORMS:
        raise UsageError(f"A picture called {str(path)!r}", expected=f"a name that ends in {', '.join(FORMS)}")
    check_writable(path)
    _figures()


def plot_differences(decisions: Decisions, a: str, b: str, path: str | Path) -> None:
    """Draw the score of ``a`` less that of ``b`` for every topic, the largest first, with their mean.

    Raises:
        UnknownNameError: No such system; otherwise as `plot`.
    """
    matrix = decisions.matrix
    deltas = matrix.deltas(a, b)
    order = np.argsort(-deltas, kind="stable")
    places, mean = np.arange(len(order)), float(deltas.mean())
    better, worse = int((deltas > 0).sum()), int((deltas < 0).sum())
    with _drawing(path, width=min(14.0, 4 + 0.13 * len(order)), height=4.2) as axes:
        axes.bar(places, deltas[order], color=[_BETTER if d > 0 else _WORSE for d in deltas[order]], width=0.8)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.axhline(mean, color="black", linewidth=0.8, linestyle="--", label=f"mean {mean:+.4f}")
        axes.set_title(f"{_short(a)} less {_short(b)}", fontsize=10)
        axes.set_ylabel(f"difference of {matrix.measure or 'scores'}")
        axes.set_xlabel(f"{len(order)} topics: {better} better, {len(order) - better - worse} equal, {worse} worse")
        axes.margins(x=0.01)
        if len(order) <= _NAMED:
            axes.set_xticks(places, [_short(matrix.topics[at], 12) for at in order], rotation=90, fontsize=6)
        else:
            axes.set_xticks([])
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right")


def plot_p_values(decisions: Decisions, path: str | Path) -> None:
    """Draw all pairs, the better one as the row; the darker, the smaller p after the correction. Raises as `plot`."""
    check_plot(path)
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    names, p, steps = _square(decisions)
    many, found = len(names), int(decisions.significant.sum())
    side = max(4.5, min(14.0, 2.5 + 0.32 * many))
    with _drawing(path, width=side, height=side + 0.6) as axes:
        axes.imshow(
            steps, cmap=ListedColormap(_COLOURS), norm=BoundaryNorm([0, 1, 2, 3, 4], 4), interpolation="nearest"
        )
        size = max(3.0, min(9.0, 420 / many))
        axes.set_xticks(range(many), names, rotation=90, fontsize=size)
        axes.set_yticks(range(many), names, fontsize=size)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(
            f"{decisions.title}, correction {TITLES[decisions.correction]}\n"
            f"{found} of {len(decisions.significant)} pairs: the row is significantly better",
            fontsize=9,
        )
        bounds = [decisions.alpha / step for step in _STEPS]
        words = [f"p > {bounds[0]:g}", *(f"p <= {bound:g}" for bound in bounds)]
        patches = [Patch(color=colour, label=word) for colour, word in zip(_COLOURS, words, strict=True)]
        axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(0, 0.32), frameon=False, fontsize=8)
        for row, column in np.argwhere(~np.isnan(p)) if many <= _WRITTEN else ():
            dark = steps[row, column] >= 2
            value = p[row, column]
            text = f"{value:.3f}" if value >= 0.0005 else "<.001"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")


def _square(decisions: Decisions) -> tuple[list[str], Any, Any]:
    """Names, the best mean first; p-values, NaN where the row is not the better; steps, masked there."""
    matrix = decisions.matrix
    order = np.argsort(-matrix.values.mean(axis=0), kind="stable")
    many = len(order)
    first, second = np.triu_indices(many, 1)
    full = np.full((many, many), np.nan)
    full[first, second] = full[second, first] = decisions.p_values()[1]
    p = np.where(np.tri(many, dtype=bool), np.nan, full[np.ix_(order, order)])
    found = np.zeros((many, many), dtype=bool)
    found[first, second] = found[second, first] = decisions.significant
    steps = found[np.ix_(order, order)] * sum((p <= decisions.alpha / step).astype(int) for step in _STEPS)
    return [_short(matrix.systems[at]) for at in order], p, np.ma.masked_where(np.isnan(p), steps)


@contextmanager
def _drawing(path: str | Path, *, width: float, height: float) -> Iterator[Any]:
    """Axes to draw on; the file is written whole when the drawing is done."""
    check_plot(path)
    figure = _figures()(figsize=(width, height), layout="constrained")
    yield figure.add_subplot()
    form, drawn = Path(path).suffix.lower().removeprefix("."), io.BytesIO()
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    figure.savefig(drawn, format=form, dpi=160, metadata=dateless)
    try:
        Path(path).write_bytes(drawn.getvalue())
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}", remedy="Free space") from error


def _figures() -> Any:
    """Matplotlib's class of figures."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPrerequisiteError(
            "matplotlib is not installed, and pictures need it", remedy="Run: pip install 'listrank[plots]'"
        ) from error
    return Figure


def _short(name: str, limit: int = 36) -> str:
    """The end of a long name, since paths differ there; ``$`` would start a formula."""
    return (name if len(name) <= limit else f"…{name[1 - limit :]}").replace("$", r"\$")
