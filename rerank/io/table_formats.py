"""Formatting of tables as text, Markdown, LaTeX and HTML, with cells escaped for each format."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

Form = Literal["text", "markdown", "latex", "html"]


class Cell(NamedTuple):
    """A cell with optional superscript marks, like footnote marks; ``best`` cells are bold where a format can do so."""

    text: str
    above: str = ""
    best: bool = False


class Grid(NamedTuple):
    """A table whose first ``left`` columns are left-aligned and whose other columns are right-aligned.

    Only LaTeX shows the caption, as that of a floating table.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: int = 1
    caption: str = ""


#: Letters that can be written as superscripts. ``q`` is omitted, since fonts lack its superscript form.
LETTERS = "abcdefghijklmnoprstuvwxyz"
_RAISED = str.maketrans(LETTERS, "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ")
_LATEX_MARKS = str.maketrans({"†": r"\dagger{}", "‡": r"\ddagger{}", "↑": r"\uparrow{}", "↓": r"\downarrow{}"})
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a row end, LaTeX would read a bracket as an optional argument
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "*": r"\textasteriskcentered{}",  # after a row end, LaTeX would read a star as part of the command
    **{character: "\\" + character for character in "&%$#_{}"},
}


def convert_tables_to_format(grids: Sequence[Grid], lines: Sequence[str], form: Form = "text") -> str:
    """Format tables, followed by lines of text.

    Args:
        grids: The tables.
        lines: Lines below the tables, each a separate paragraph.
        form: Output format. ``latex`` needs the package booktabs, and textcomp in old distributions.
    """
    draw = {
        "text": _convert_table_to_text,
        "markdown": _convert_table_to_markdown,
        "latex": _convert_table_to_latex,
        "html": _convert_table_to_html,
    }[form]
    blocks = [draw(grid) for grid in grids]
    if form == "text":
        blocks += ["\n".join(lines)] if lines else []
    elif form == "markdown":
        blocks += [_escape_for_markdown_format(line) for line in lines]
    elif form == "latex":
        blocks += [_escape_for_latex_format(line) for line in lines]
    else:
        blocks += [f"<p>{html.escape(line)}</p>" for line in lines]
    return "\n\n".join(blocks)


def convert_tables_with_legend(
    grids: Sequence[Grid], legend: Sequence[str], notes: Sequence[str], form: Form = "text"
) -> str:
    """Format tables with a legend and notes; in LaTeX, the legend is the caption of the first table.

    Args:
        grids: The tables, at least one.
        legend: Lines that explain the marks and state the test.
        notes: Further lines below the tables.
        form: Output format.
    """
    if form != "latex":
        return convert_tables_to_format(grids, [*legend, *notes], form)
    first, *rest = grids
    return convert_tables_to_format([first._replace(caption=" ".join(legend)), *rest], notes, form)


def _convert_cells_for_table_format(row: Sequence[str | Cell]) -> list[Cell]:
    return [Cell(cell) if isinstance(cell, str) else cell for cell in row]


def _convert_table_to_text(grid: Grid) -> str:
    rows = [[Cell(head) for head in grid.heads], *map(_convert_cells_for_table_format, grid.rows)]
    raised = [max((len(cell.above) for cell in column), default=0) for column in zip(*rows, strict=True)]
    lines = [
        [cell.text + cell.above.translate(_RAISED).ljust(width) for cell, width in zip(row, raised, strict=True)]
        for row in rows
    ]
    widths = [max(map(_width_in_text_table, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(_align_cells(line, widths, grid.left)).rstrip() for line in lines)


def _align_cells(cells: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    pads = [" " * (width - _width_in_text_table(cell)) for cell, width in zip(cells, widths, strict=True)]
    return [
        cell + pad if index < left else pad + cell for index, (cell, pad) in enumerate(zip(cells, pads, strict=True))
    ]


def _width_in_text_table(text: str) -> int:
    """Return the number of terminal columns of a text: two for Chinese characters, none for combining accents."""
    wide = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return wide - sum(unicodedata.combining(character) > 0 for character in text)


def _convert_table_to_markdown(grid: Grid) -> str:
    rule = ["---"] * grid.left + ["---:"] * (len(grid.heads) - grid.left)
    rows = [
        [
            _emphasise("**", _escape_for_markdown_format(c.text), "**", c.best)
            + (f"<sup>{c.above}</sup>" if c.above else "")
            for c in _convert_cells_for_table_format(row)
        ]
        for row in grid.rows
    ]
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in [[_escape_for_markdown_format(h) for h in grid.heads], rule, *rows]
    )


def _escape_for_markdown_format(text: str) -> str:
    return html.escape(re.sub(r"([\\|*`])", r"\\\1", text), quote=False)


def _convert_table_to_latex(grid: Grid) -> str:
    form = "l" * grid.left + "r" * (len(grid.heads) - grid.left)
    rows = [
        [
            _emphasise(r"\textbf{", _escape_for_latex_format(c.text), "}", c.best)
            + (f"$^{{{c.above.translate(_LATEX_MARKS)}}}$" if c.above else "")
            for c in _convert_cells_for_table_format(row)
        ]
        for row in grid.rows
    ]
    lines = [" & ".join(cells) + r" \\" for cells in [[_escape_for_latex_format(head) for head in grid.heads], *rows]]
    body = [lines[0], r"\midrule", *lines[1:]]
    tabular = [rf"\begin{{tabular}}{{{form}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
    if grid.caption:
        caption = rf"\caption{{{_escape_for_latex_format(grid.caption)}}}"
        tabular = [r"\begin{table}", r"\centering", caption, *tabular, r"\end{table}"]
    return "\n".join(tabular)


def _emphasise(start: str, text: str, end: str, best: bool) -> str:
    return f"{start}{text}{end}" if best else text


def _escape_for_latex_format(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _convert_table_to_html(grid: Grid) -> str:
    def line(tag: str, cells: Sequence[Cell]) -> str:
        parts = []
        for index, cell in enumerate(cells):
            style = "" if index < grid.left else ' style="text-align: right"'
            superscript = f"<sup>{html.escape(cell.above)}</sup>" if cell.above else ""
            text = _emphasise("<b>", html.escape(cell.text), "</b>", cell.best)
            parts.append(f"<{tag}{style}>{text}{superscript}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    head = line("th", _convert_cells_for_table_format(grid.heads))
    body = "\n".join(line("td", _convert_cells_for_table_format(row)) for row in grid.rows)
    return f"<table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
