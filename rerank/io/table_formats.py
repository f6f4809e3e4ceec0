"""Tables as text, Markdown, LaTeX and HTML, every cell escaped for its form. Knows no runs and no measures."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

Form = Literal["text", "markdown", "latex", "html"]


class Cell(NamedTuple):
    """A cell with letters above it, as footnote marks are written."""

    text: str
    above: str = ""


class Grid(NamedTuple):
    """One table: the first ``left`` columns stand to the left, the others to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: int = 1


#: Letters that have a small raised form in Unicode; ``q`` has none that fonts know.
LETTERS = "abcdefghijklmnoprstuvwxyz"
_RAISED = str.maketrans(LETTERS, "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's end, a bracket would be read as its argument
    "*": r"\textasteriskcentered{}",  # the same for a star
    **{character: "\\" + character for character in "&%$#_{}"},
}


def render(grids: Sequence[Grid], lines: Sequence[str], form: Form = "text") -> str:
    """Tables one after another, then lines of text.

    Args:
        grids: The tables.
        lines: What is said below them, each a paragraph of its own.
        form: ``latex`` needs the package booktabs, and textcomp in old distributions.
    """
    draw = {"text": _text, "markdown": _markdown, "latex": _latex, "html": _html}[form]
    blocks = [draw(grid) for grid in grids]
    if form == "text":
        blocks += ["\n".join(lines)] if lines else []
    elif form == "markdown":
        blocks += [_marked(line) for line in lines]
    elif form == "latex":
        blocks += [_tex(line) for line in lines]
    else:
        blocks += [f"<p>{html.escape(line)}</p>" for line in lines]
    return "\n\n".join(blocks)


def _cells(row: Sequence[str | Cell]) -> list[Cell]:
    return [Cell(cell) if isinstance(cell, str) else cell for cell in row]


def _text(grid: Grid) -> str:
    rows = [[Cell(head) for head in grid.heads], *map(_cells, grid.rows)]
    raised = [max((len(cell.above) for cell in column), default=0) for column in zip(*rows, strict=True)]
    lines = [
        [cell.text + cell.above.translate(_RAISED).ljust(room) for cell, room in zip(row, raised, strict=True)]
        for row in rows
    ]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(_aligned(line, widths, grid.left)).rstrip() for line in lines)


def _aligned(cells: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    pads = [" " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)]
    return [cell + pad if at < left else pad + cell for at, (cell, pad) in enumerate(zip(cells, pads, strict=True))]


def _width(text: str) -> int:
    """Columns of a terminal that a text takes; Chinese characters take two, accents on others none."""
    wide = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return wide - sum(unicodedata.combining(character) > 0 for character in text)


def _markdown(grid: Grid) -> str:
    rule = ["---"] * grid.left + ["---:"] * (len(grid.heads) - grid.left)
    rows = [[_marked(c.text) + (f"<sup>{c.above}</sup>" if c.above else "") for c in _cells(row)] for row in grid.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [[_marked(h) for h in grid.heads], rule, *rows])


def _marked(text: str) -> str:
    return html.escape(re.sub(r"([\\|*`])", r"\\\1", text), quote=False)


def _latex(grid: Grid) -> str:
    form = "l" * grid.left + "r" * (len(grid.heads) - grid.left)
    rows = [[_tex(c.text) + (f"$^{{{c.above}}}$" if c.above else "") for c in _cells(row)] for row in grid.rows]
    lines = [" & ".join(cells) + r" \\" for cells in [[_tex(head) for head in grid.heads], *rows]]
    body = [lines[0], r"\midrule", *lines[1:]]
    return "\n".join([rf"\begin{{tabular}}{{{form}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"])


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _html(grid: Grid) -> str:
    def line(tag: str, cells: Sequence[Cell]) -> str:
        drawn = []
        for at, cell in enumerate(cells):
            style = "" if at < grid.left else ' style="text-align: right"'
            above = f"<sup>{html.escape(cell.above)}</sup>" if cell.above else ""
            drawn.append(f"<{tag}{style}>{html.escape(cell.text)}{above}</{tag}>")
        return f"<tr>{''.join(drawn)}</tr>"

    head = line("th", _cells(grid.heads))
    body = "\n".join(line("td", _cells(row)) for row in grid.rows)
    return f"<table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
