"""Reports: results of commands as JSON, as records, and as tables with notes, in text, CSV, Markdown, LaTeX or HTML."""

from __future__ import annotations

import csv
import html
import io
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, ClassVar, Literal, NamedTuple

Form = Literal["text", "markdown", "latex", "html"]


class Cell(NamedTuple):
    """A table cell: a text with optional superscript marks."""

    text: str
    above: str = ""  #: Superscript marks after the text, like footnote marks.
    best: bool = False  #: Whether the text is bold, in formats that support bold text.
    short: str = ""  #: Text for a terminal that is too narrow for the table; empty if there is none.


class Grid(NamedTuple):
    """A table that can be formatted as text, Markdown, LaTeX or HTML."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: int = 1  #: Number of left-aligned columns; all further columns are right-aligned.
    caption: str = ""  #: Caption of a floating table, which only LaTeX shows; empty for a table that does not float.
    minor: Collection[int] = ()  #: Indices of the columns that a terminal shows only on request.
    further: bool = False  #: Whether the table is secondary, and not part of the output that a pipe or a file receives.
    title: str = ""  #: Line above the table on a terminal.

    def without_minor_columns(self) -> Grid:
        """Return the table without its minor columns."""
        kept = [index for index in range(len(self.heads)) if index not in self.minor]
        rows = [[row[index] for index in kept] for row in self.rows]
        return self._replace(heads=[self.heads[index] for index in kept], rows=rows, minor=())


def make_grid(
    heads: Iterable[str],
    rows: Iterable[Iterable[object]],
    *,
    digits: int = 4,
    minor: Collection[str] = (),
    further: bool = False,
    title: str = "",
) -> Grid:
    """Return a table of any values; floats get ``digits`` decimals, and None becomes a dash."""
    heads = list(heads)
    cells = [[format_cell(value, digits) for value in row] for row in rows]
    hidden = [index for index, head in enumerate(heads) if head in minor]
    return Grid(heads, cells, minor=hidden, further=further, title=title)


def format_cell(value: object, digits: int = 4) -> str:
    """Format a value for a table: floats with a fixed number of decimals, None as a dash."""
    return "-" if value is None else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def value_with_interval(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    """Format a value and its interval, such as ``0.500 [0.400, 0.600]``; the interval is omitted if it is unknown."""
    if value is None or not interval:
        return format_cell(value, digits)
    return f"{value:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


class TableReport(NamedTuple):
    """The tables of one result, with the lines below them."""

    grids: Sequence[Grid]  #: At least one. The main table is the last table before the ``after`` tables at the end.
    legend: Sequence[str] = ()  #: Lines that explain the marks and state the significance test.
    notes: Sequence[str] = ()
    measure: str = ""  #: Name of the measure, if there is one report per measure.
    after: int = 0

    @property
    def main(self) -> Grid:
        """The main table, the only one that is printed if stdout is not a terminal."""
        return self.grids[-1 - self.after]

    def format(self, form: Form = "text") -> str:
        """Format the tables, the legend and the notes; in LaTeX, the legend is the caption of the first table."""
        if form != "latex" or not self.grids:
            return format_tables(self.grids, [*self.legend, *self.notes], form)
        first, *rest = self.grids
        return format_tables([first._replace(caption=" ".join(self.legend)), *rest], self.notes, form)


class Line(str):
    """A line of the result itself, which is printed on stdout; other texts are notes, which are printed on stderr."""

    __slots__ = ()


Part = Grid | TableReport | str


class Report(ABC):
    """Base class of results. A subclass implements `tables` or `parts`; each of them defaults to the other."""

    __slots__ = ()
    #: Key of `to_dict` whose items are the records; if empty, the whole result is one record.
    rows_key: ClassVar[str] = ""

    @abstractmethod
    def to_dict(self) -> Any:
        """Return the result as a JSON object, or as a list of JSON objects."""

    def records(self) -> Iterable[Mapping[str, Any]]:
        """Return the rows of formats with one line per row, such as CSV."""
        return _records_of(self.to_dict(), self.rows_key)

    def tables(self, digits: int = 4) -> TableReport:
        """Return the tables of the result, with their legend and the notes; scores have ``digits`` decimals."""
        grids: list[Grid] = []
        legend: list[str] = []
        notes: list[str] = []
        for part in self.parts():
            if isinstance(part, TableReport):
                grids, legend, notes = [*grids, *part.grids], [*legend, *part.legend], [*notes, *part.notes]
            elif isinstance(part, Grid):
                grids.append(part)
            else:
                notes.append(part)
        return TableReport(grids, legend, notes)

    def parts(self) -> Iterable[Part]:
        """Yield what the command line prints: tables and lines of the result on stdout, notes on stderr."""
        return [self.tables()]

    def to_table(self, form: Form, digits: int = 4) -> str:
        """Return the tables, their legend and the notes in an output format."""
        return self.tables(digits).format(form)

    def __str__(self) -> str:
        return self.to_table("text")

    def _repr_html_(self) -> str:
        return self.to_table("html")


def _records_of(content: Any, key: str | Sequence[str]) -> Iterable[Mapping[str, Any]]:
    if not isinstance(key, str):
        return [{"table": name, **row} for name in key for row in content[name]]
    return content[key] if key else [content] if isinstance(content, Mapping) else content


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainReport(Report):
    """A report of a result that is a plain JSON value."""

    content: Any  #: The result, which `to_dict` returns.
    shown: Iterable[Part] = ()  #: What `parts` returns.
    #: Key of the content whose items are the records; if empty, the whole content is the record. Of several keys, a
    #: record also names its own, as ``table``.
    key: str | Sequence[str] = ""
    rows: Iterable[Mapping[str, Any]] | None = None  #: Records that replace those of the content.
    papers: Sequence[TableReport] = ()  #: Tables for a paper; by default the shown ones.
    table: Callable[[int], TableReport] | None = None  #: Makes the tables with a number of decimals, without ``shown``.

    def to_dict(self) -> Any:
        return self.content

    def records(self) -> Iterable[Mapping[str, Any]]:
        return _records_of(self.content, self.key) if self.rows is None else self.rows

    def parts(self) -> Iterable[Part]:
        return self.shown if self.table is None else [self.table(4)]

    def tables(self, digits: int = 4) -> TableReport:
        return Report.tables(self) if self.table is None else self.table(digits)

    def to_table(self, form: Form, digits: int = 4) -> str:
        return "\n\n".join(paper.format(form) for paper in self.papers or [self.tables(digits)])


#: Letters that can be written as superscripts. ``q`` is omitted, since fonts lack its superscript form.
LETTERS = "abcdefghijklmnoprstuvwxyz"
_RAISED = str.maketrans(LETTERS, "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ")
_LATEX_MARKS = str.maketrans(
    {"†": r"\dagger{}", "‡": r"\ddagger{}", "↑": r"\uparrow{}", "↓": r"\downarrow{}", "–": r"\mbox{--}"}
)
_LATEX = str.maketrans(
    {
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
)


def format_tables(grids: Sequence[Grid], lines: Sequence[str], form: Form = "text") -> str:
    """Format tables, followed by paragraphs of text. ``latex`` needs booktabs, and textcomp in old distributions."""
    if form == "text":
        return "\n\n".join([*map(_format_text, grids), *(["\n".join(lines)] if lines else [])])
    if form == "markdown":
        return "\n\n".join([*map(_format_markdown, grids), *map(_escape_markdown, lines)])
    if form == "latex":
        return "\n\n".join([*map(_format_latex, grids), *(line.translate(_LATEX) for line in lines)])
    return "\n\n".join([*map(_format_html, grids), *(f"<p>{html.escape(line)}</p>" for line in lines)])


def cell_text(cell: str | Cell) -> str:
    """Return the text of a cell without its marks."""
    return cell.text if isinstance(cell, Cell) else cell


def _all_cells(grid: Grid) -> list[list[Cell]]:
    """Return the cells of the heads and of all rows."""
    return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in (grid.heads, *grid.rows)]


def table_as_text_cells(grid: Grid, *, short: bool = False) -> list[list[str]]:
    """Return the rows of a table as text, the heads first, with superscript marks of equal width in each column."""
    rows = _all_cells(grid)
    raised = [max((len(cell.above) for cell in column), default=0) for column in zip(*rows, strict=True)]
    return [
        [
            (cell.short if short and cell.short else cell.text) + cell.above.translate(_RAISED).ljust(width)
            for cell, width in zip(row, raised, strict=True)
        ]
        for row in rows
    ]


def width_in_terminal(text: str) -> int:
    """Return the number of terminal columns of a text: two per Chinese character, none per combining accent."""
    wide = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return wide - sum(unicodedata.combining(character) > 0 for character in text)


def _format_text(grid: Grid) -> str:
    lines = table_as_text_cells(grid)
    widths = [max(map(width_in_terminal, column)) for column in zip(*lines, strict=True)]
    texts = []
    for line in lines:
        pads = [" " * (width - width_in_terminal(cell)) for cell, width in zip(line, widths, strict=True)]
        cells = [*map("".join, zip(line[: grid.left], pads, strict=False))]
        cells += map("".join, zip(pads[grid.left :], line[grid.left :], strict=True))
        texts.append("  ".join(cells).rstrip())
    return "\n".join(texts)


def _marked_cells(grid: Grid, escape: Callable[[str], str], bold: str, raised: Callable[[str], str]) -> list[list[str]]:
    """Return the heads and rows in a markup language, with bold texts and superscripts."""
    return [
        [
            (bold % escape(cell.text) if cell.best else escape(cell.text)) + (raised(cell.above) if cell.above else "")
            for cell in row
        ]
        for row in _all_cells(grid)
    ]


def _escape_markdown(text: str) -> str:
    # Names of files must not become links, and line breaks would end the row.
    return html.escape(re.sub(r"([\\|*`]|\](?=[(\[:]))", r"\\\1", " ".join(text.split())), quote=False)


def _format_markdown(grid: Grid) -> str:
    heads, *rows = _marked_cells(grid, _escape_markdown, "**%s**", "<sup>{}</sup>".format)
    rule = ["---"] * grid.left + ["---:"] * (len(heads) - grid.left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, rule, *rows])


def _format_latex(grid: Grid) -> str:
    cells = _marked_cells(
        grid,
        lambda text: text.translate(_LATEX),
        r"\textbf{%s}",
        lambda above: f"$^{{{above.translate(_LATEX_MARKS)}}}$",
    )
    heads, *rows = [" & ".join(row) + r" \\" for row in cells]
    columns = "l" * grid.left + "r" * (len(grid.heads) - grid.left)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        heads,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if grid.caption:
        caption = rf"\caption{{{grid.caption.translate(_LATEX)}}}"
        lines = [r"\begin{table}", r"\centering", caption, *lines, r"\end{table}"]
    return "\n".join(lines)


def _format_html(grid: Grid) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        right = f'<{tag} style="text-align: right">'
        parts = [f"{right if index >= grid.left else f'<{tag}>'}{cell}</{tag}>" for index, cell in enumerate(cells)]
        return f"<tr>{''.join(parts)}</tr>"

    heads, *rows = _marked_cells(grid, html.escape, "<b>%s</b>", lambda above: f"<sup>{html.escape(above)}</sup>")
    body = "\n".join(line("td", row) for row in rows)
    return f"<table>\n<thead>\n{line('th', heads)}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


#: Beginnings of formulas: operators, also in full-width form, after optional whitespace.
_FORMULA = re.compile(r"[\t\n]|\s*[=+@\uff1d\uff0b\uff0d\uff20-]")


def format_csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV with a header; None becomes an empty cell.

    Spreadsheet programs evaluate a text that looks like a formula, which can run programs and send data. Therefore, an
    apostrophe, which these programs do not show, is put before such a text. Numbers are not changed.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([_harmless_cell(cell) for cell in row] for row in (columns, *rows))
    return stream.getvalue()


def _harmless_cell(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")  # a lone carriage return is not quoted and would end the row
    if not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def convert_rows_to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Format rows as CSV with a header of all their keys; numbers keep all digits.

    A pair of numbers ``x`` becomes the columns ``x_low`` and ``x_high``. In rows of several tables, an object becomes
    one column per key, such as ``means.web``; other lists and objects are omitted.
    """
    flat: list[dict[str, Any]] = []
    for row in rows:
        cells: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], float):
                cells |= {f"{key}_low": value[0], f"{key}_high": value[1]}
            elif isinstance(value, dict) and "table" in row:
                cells |= {f"{key}.{name}": part for name, part in value.items()}
            elif not isinstance(value, list | tuple | dict):
                cells[key] = value
        flat.append(cells)
    found = dict.fromkeys(key for cells in flat for key in cells)
    pairs = {key for key in found if f"{key}_low" in found and all(cells.get(key) is None for cells in flat)}
    heads = [key for key in found if key not in pairs]  # a pair is None in the rows that lack it
    return format_csv_table(heads, [[cells.get(key) for key in heads] for cells in flat])


def read_page_style(package: str, name: str) -> str:
    """Return the shared style sheet, followed by that of a page: the file ``name`` of ``package``."""
    sheets = files("rerank.io") / "page.css", files(package) / name
    return "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
