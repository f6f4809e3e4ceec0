"""Reliability diagrams as SVG. They plot the share of relevant documents against the mean probability of each bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_SIDE = 200  # side length of a square panel, in pixels
_LEFT, _TOP, _GAP, _BOTTOM = 56, 44, 44, 48
_INK, _FAINT, _POINT = "#222222", "#bbbbbb", "#2b6ca3"
_TICKS = (0.0, 0.5, 1.0)


def draw_reliability_diagram(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw one panel per row of a report: collections and fits from top to bottom, depths from left to right.

    Each point is a bin, and larger points represent more documents. Probabilities are well calibrated where points lie
    on the diagonal, and too high where points lie below it.

    Args:
        rows: Rows with ``collection``, ``held_out``, ``fit``, ``depth``, ``ece``, ``documents`` and ``bins``.

    Returns:
        The SVG image as text.
    """
    lines = list(dict.fromkeys((row["collection"], row["held_out"], row["fit"]) for row in rows))
    columns = sorted({row["depth"] for row in rows})
    width = _LEFT + len(columns) * (_SIDE + _GAP)
    height = len(lines) * (_TOP + _SIDE + _BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for row in rows:
        x = _LEFT + columns.index(row["depth"]) * (_SIDE + _GAP)
        line = lines.index((row["collection"], row["held_out"], row["fit"]))
        parts += _reliability_panel(row, x, line * (_TOP + _SIDE + _BOTTOM) + _TOP)
    return "\n".join([*parts, "</svg>", ""])


def _reliability_panel(row: Mapping[str, Any], x: float, y: float) -> list[str]:
    """Return the SVG elements of one panel. ``x`` and ``y`` are the coordinates of its upper left corner."""
    queries = "held-out queries" if row["held_out"] else "other collection"
    low, high = row["intervals"]["ece"]
    parts = [
        _diagram_text(x, y - 24, f"{row['fit']}, depth {row['depth']}", weight="bold"),
        _diagram_text(x, y - 9, f"{row['collection']}, {queries}", size=9),
        f'<rect x="{x}" y="{y}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="{_FAINT}"/>',
        f'<line x1="{x}" y1="{y + _SIDE}" x2="{x + _SIDE}" y2="{y}" stroke="{_FAINT}" stroke-dasharray="4 3"/>',
        _diagram_text(x + 6, y + 15, f"error {row['ece']:.3f} [{low:.3f}, {high:.3f}]"),
        _diagram_text(x + _SIDE / 2, y + _SIDE + 32, "mean probability", anchor="middle"),
    ]
    for tick in _TICKS:
        parts.append(_diagram_text(x + tick * _SIDE, y + _SIDE + 15, f"{tick:g}", anchor="middle"))
        parts.append(_diagram_text(x - 6, y + (1 - tick) * _SIDE + 4, f"{tick:g}", anchor="end"))
    label_x, label_y = x - 30, y + _SIDE / 2
    parts.append(
        f'<text x="{label_x}" y="{label_y}" text-anchor="middle" fill="{_INK}" '
        f'transform="rotate(-90 {label_x} {label_y})">share relevant</text>'
    )
    points = [(x + b["predicted"] * _SIDE, y + (1 - b["observed"]) * _SIDE, b["count"]) for b in row["bins"]]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_POINT}"/>')
    for px, py, count in points:
        radius = 2 + 6 * (count / row["documents"]) ** 0.5
        parts.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{radius:.1f}" fill="{_POINT}" fill-opacity="0.75">'
            f"<title>{count} documents</title></circle>"
        )
    return parts


def _diagram_text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{_INK}">{escape(text)}</text>'
    )
