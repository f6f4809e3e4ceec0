"""Heat maps of an inspection: relative norm, rank and intruder dimensions, for each layer and kind of matrix.

They are drawn with matplotlib (the extra ``plots``), without its global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank.errors import StorageError, UsageError
from rerank.evaluation.plots import check_comparison_plot
from rerank.finetune.inspection.report import Inspection, MatrixReport

_LAYER = re.compile(r"(?P<before>.*?)\.(?P<layer>\d+)\.(?P<kind>.+)")
#: Row label of matrices outside of the layers.
_OUTSIDE = "outside"
#: Kinds of matrices that come first, in the order in which a layer uses them.
_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
#: Numbers are printed into the cells of a map if it has at most this many cells.
_WRITTEN = 400
_COLOURS = "Blues"
#: Colour of unchanged matrices.
_EMPTY = "#f2f2f2"


def plot_inspection(inspection: Inspection, path: str | Path) -> None:
    """Draw heat maps of the changed matrices: relative norm, rank, and intruder dimensions if they were computed.

    Args:
        inspection: The inspection.
        path: File name that ends in .png, .svg or .pdf.

    Raises:
        UsageError: The file type is not supported, or no matrix was changed.
        MissingPrerequisiteError: matplotlib is not installed.
        MissingResourceError: The folder does not exist.
        StorageError: The file cannot be written.
    """
    check_comparison_plot(path)
    if not inspection.rows:
        raise UsageError("No matrix was changed, so there is nothing to draw", remedy="Omit --plot")
    from matplotlib.figure import Figure

    layers, kinds, positions = _inspection_grid(inspection.rows)
    fields: list[tuple[str, Callable[[MatrixReport], float | None], str]] = [
        (
            "size of the change, % of the matrix",
            lambda row: None if row.relative is None else 100 * row.relative,
            ".3g",
        ),
        ("rank of the change, by entropy", lambda row: row.entropy_rank, ".1f"),
    ]
    if inspection.options.top:
        fields.append((f"intruders in the first {inspection.options.top}", lambda row: row.intruders, ".0f"))
    width = len(fields) * max(2.6, 0.62 * len(kinds) + 1.2)
    figure = Figure(figsize=(min(20.0, width), min(16.0, 1.9 + 0.24 * len(layers))), layout="constrained")
    figure.suptitle(f"{_shorten_matrix_name(inspection.subject.folder.name)} ({inspection.subject.kind})", fontsize=10)
    for axes, (title, value, form) in zip(np.atleast_1d(figure.subplots(1, len(fields))), fields, strict=True):
        table = np.full((len(layers), len(kinds)), np.nan)
        for row, position in zip(inspection.rows, positions, strict=True):
            cell = value(row)
            table[position] = np.nan if cell is None else cell
        _draw_inspection_map(figure, axes, table, (title, form), (layers, kinds))
    _save_adapter_inspection_figure(figure, Path(path))


def _inspection_grid(rows: Sequence[MatrixReport]) -> tuple[list[str], list[str], list[tuple[int, int]]]:
    """Return row labels, column labels, and the (row, column) of each matrix."""
    cells = []
    for row in rows:
        match = _LAYER.fullmatch(row.name)
        cells.append((match["layer"], match["kind"]) if match else (_OUTSIDE, row.name.rpartition(".")[2]))
    numbers = sorted({int(layer) for layer, _ in cells if layer != _OUTSIDE})
    layers = [*map(str, numbers), *([_OUTSIDE] if any(layer == _OUTSIDE for layer, _ in cells) else [])]
    order = {name: index for index, name in enumerate(_ORDER)}
    kinds = sorted(dict.fromkeys(kind for _, kind in cells), key=lambda kind: order.get(kind.rpartition(".")[2], 99))
    return layers, kinds, [(layers.index(layer), kinds.index(kind)) for layer, kind in cells]


def _draw_inspection_map(
    figure: Any,
    axes: Any,
    table: npt.NDArray[np.float64],
    caption: tuple[str, str],
    names: tuple[Sequence[str], Sequence[str]],
) -> None:
    """Draw one heat map, with numbers if there is space for them."""
    title, form = caption
    layers, kinds = names
    top = np.nanmax(table) if np.isfinite(table).any() else 1.0
    axes.set_facecolor(_EMPTY)
    image = axes.imshow(table, cmap=_COLOURS, vmin=0, vmax=top or 1.0, aspect="auto", interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(kinds)), [kind.rpartition(".")[2] for kind in kinds], rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(layers)), layers, fontsize=7)
    axes.set_ylabel("layer", fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(np.isfinite(table)) if table.size <= _WRITTEN else ():
        dark = table[row, column] > 0.6 * (top or 1.0)
        text = format(table[row, column], form)
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
    bar.ax.tick_params(labelsize=6)
    bar.outline.set_visible(False)


def _save_adapter_inspection_figure(figure: Any, path: Path) -> None:
    """Write the figure without a date, so that the same figure always gives the same bytes."""
    form, drawn = path.suffix.lower().removeprefix("."), io.BytesIO()
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    figure.savefig(drawn, format=form, dpi=160, metadata=dateless)
    try:
        path.write_bytes(drawn.getvalue())
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}", remedy="Free disk space") from error


def _shorten_matrix_name(name: str, limit: int = 60) -> str:
    """Return at most the last ``limit`` characters of a name; ``$``, which starts a formula, is escaped."""
    return (name if len(name) <= limit else f"…{name[1 - limit :]}").replace("$", r"\$")
