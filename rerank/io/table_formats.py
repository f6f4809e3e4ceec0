"""Formatting of tables as text, Markdown, LaTeX and HTML, with cells escaped for each format."""

from __future__ import annotations

import html
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

Form = Literal["text", "markdown", "latex", "html"]


class Cell(NamedTuple):
    """A table cell: a text with optional superscript marks.

    Attributes:
        text: The text.
        above: Superscript marks after the text, like footnote marks; empty for none.
        best: Whether the text is bold, in formats that support bold text.
        short: Text that is shown instead in a terminal that is too narrow for the table; empty if there is none.
    """

    text: str
    above: str = ""
    best: bool = False
    short: str = ""


class Grid(NamedTuple):
    """A table that can be formatted as text, Markdown, LaTeX or HTML.

    Attributes:
        heads: The column headings.
        rows: The cells of each row.
        left: Number of left-aligned columns; all further columns are right-aligned.
        caption: The caption of a floating table, which only LaTeX shows; empty for a table that does not float.
        minor: Indices of the columns that a terminal shows only on request.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: int = 1
    caption: str = ""
    minor: Collection[int] = ()

    def without_minor_columns(self) -> Grid:
        """Return the table without its minor columns."""
        kept = [index for index in range(len(self.heads)) if index not in self.minor]
        rows = [[row[index] for index in kept] for row in self.rows]
        return self._replace(heads=[self.heads[index] for index in kept], rows=rows, minor=())


class TableReport(NamedTuple):
    """The tables of one result, with the lines below them.

    Attributes:
        grids: The tables, at least one. The main table is the last table before the ``after`` tables at the end.
        legend: Lines that explain the marks and state the significance test.
        notes: Further lines.
        measure: Name of the measure, if there is one report per measure; otherwise empty.
        after: Number of tables that follow the main table.
    """

    grids: Sequence[Grid]
    legend: Sequence[str] = ()
    notes: Sequence[str] = ()
    measure: str = ""
    after: int = 0

    @property
    def main(self) -> Grid:
        """The main table, the only one that is printed if stdout is not a terminal."""
        return self.grids[-1 - self.after]

    def format(self, form: Form = "text") -> str:
        """Format the tables, the legend and the notes; in LaTeX, the legend is the caption of the first table."""
        if form != "latex":
            return convert_tables_to_format(self.grids, [*self.legend, *self.notes], form)
        first, *rest = self.grids
        return convert_tables_to_format([first._replace(caption=" ".join(self.legend)), *rest], self.notes, form)


class HasTables(ABC):
    """Base class of results that are shown as tables."""

    __slots__ = ()

    @abstractmethod
    def tables(self, digits: int = 4) -> TableReport:
        """Return the tables of the result, with their legend and the notes; scores have ``digits`` decimals."""

    def to_table(self, form: Form, digits: int = 4) -> str:
        """Return the tables, their legend and the notes in an output format."""
        return self.tables(digits).format(form)

    def __str__(self) -> str:
        """Return the tables, their legend and the notes as text."""
        return self.to_table("text")


#: Letters that can be written as superscripts. ``q`` is omitted, since fonts lack its superscript form.
LETTERS = "abcdefghijklmnoprstuvwxyz"
_RAISED = str.maketrans(LETTERS, "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ")
_LATEX_MARKS = str.maketrans(
    {"†": r"\dagger{}", "‡": r"\ddagger{}", "↑": r"\uparrow{}", "↓": r"\downarrow{}", "–": r"\mbox{--}"}
)
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


def cell_text(cell: str | Cell) -> str:
    """Return the text of a cell without its marks."""
    return cell.text if isinstance(cell, Cell) else cell


def _convert_cells_for_table_format(row: Sequence[str | Cell]) -> list[Cell]:
    return [Cell(cell) if isinstance(cell, str) else cell for cell in row]


def table_as_text_cells(grid: Grid, *, short: bool = False) -> list[list[str]]:
    """Return the rows of a table as text, the heads first, with superscript marks of equal width in each column.

    Args:
        grid: The table.
        short: Whether to use the short texts of cells that have one.
    """
    rows = [[Cell(head) for head in grid.heads], *map(_convert_cells_for_table_format, grid.rows)]
    raised = [max((len(cell.above) for cell in column), default=0) for column in zip(*rows, strict=True)]
    return [
        [
            (cell.short if short and cell.short else cell.text) + cell.above.translate(_RAISED).ljust(width)
            for cell, width in zip(row, raised, strict=True)
        ]
        for row in rows
    ]


def _convert_table_to_text(grid: Grid) -> str:
    lines = table_as_text_cells(grid)
    widths = [max(map(width_in_terminal, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(_align_cells(line, widths, grid.left)).rstrip() for line in lines)


def _align_cells(cells: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    pads = [" " * (width - width_in_terminal(cell)) for cell, width in zip(cells, widths, strict=True)]
    return [
        cell + pad if index < left else pad + cell for index, (cell, pad) in enumerate(zip(cells, pads, strict=True))
    ]


def width_in_terminal(text: str) -> int:
    """Return the number of terminal columns of a text: two per Chinese character, none per combining accent."""
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
