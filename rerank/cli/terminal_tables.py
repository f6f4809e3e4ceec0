"""Tables on a terminal: text on the left, numbers on the right, as wide as the terminal, without broken words."""

import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rerank.io.reports import Grid, TableReport, table_as_text_cells, width_in_terminal
from rerank.terminal_text import strip_control_characters

#: A cell with a number, a percentage or an interval, or with what stands for a missing number.
_NUMBER = re.compile(
    r"[<>±+-]?[\d.]+[%*\u02b0-\u02ff\u1d43-\u1dbb\u2071\u207f†‡↑↓]*|[\[(].*[\d.]+.*[\])]|[\d/]+|[-–]|unknown|"
)
#: A part of a name, up to where it may continue in the next line.
_PART = re.compile(r"[^-_/:,.]*[-_/:,.]+|[^-_/:,.]+")
_GAP = 2  #: Columns of the terminal between two columns of a table.


def print_report(report: TableReport, *, wide: bool | None, most_rows: int | None) -> None:
    """Print tables, legend and notes; minor columns are omitted unless ``wide``, which is None without an option.

    Only the main table is cut to ``most_rows`` rows, and not if None; the others are summaries, which are short.
    If a table is still too wide, cells that have a short text show it, and text is wrapped. Numbers are never cut.
    """
    console = Console(highlight=False)
    for grid in report.grids:
        cut = most_rows is not None and grid is report.main and len(grid.rows) > most_rows
        shown = grid if wide else grid.without_minor_columns()
        _print_grid(shown._replace(rows=shown.rows[:most_rows]) if cut else shown, console)
        console.print()
        if cut:
            console.print(f"{len(grid.rows) - (most_rows or 0)} more rows are not shown; --all shows them.")
    for line in (*report.legend, *report.notes):
        console.print(_plain(line))
    if (hidden := [grid.heads[index] for grid in report.grids for index in sorted(grid.minor)]) and not wide:
        way = "--format json includes them" if wide is None else "--wide shows them"
        console.print(_plain(f"Columns not shown: {', '.join(hidden)}; {way}."))


def _print_grid(grid: Grid, console: Console) -> None:
    cells = table_as_text_cells(grid)
    widths = [max(map(width_in_terminal, column)) for column in zip(*cells, strict=True)]
    if sum(widths) + _GAP * (len(widths) - 1) > console.width:
        cells = table_as_text_cells(grid, short=True)
    columns = [_Column(texts) for texts in zip(*cells, strict=True)]
    gaps = _GAP * (len(columns) - 1)
    # Texts are wrapped between words; only if that is not enough, also within names, after a hyphen or the like.
    for limits in ([column.narrowest for column in columns], [column.longest_part for column in columns]):
        while sum(column.width for column in columns) + gaps > console.width:
            room, widest = max((column.width - limits[at], at) for at, column in enumerate(columns))
            if room <= 0:
                break
            columns[widest].width -= 1
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=False)
    for column in columns:
        table.add_column(width=column.width, justify="right" if column.is_number else "left")
    heads, *rows = cells
    table.add_row(*map(_plain, heads))
    for row in rows:
        table.add_row(*(column.aligned(cell) for column, cell in zip(columns, row, strict=True)))
    width = sum(column.width for column in columns) + gaps
    Console(highlight=False, width=max(console.width, width)).print(table, crop=False)


class _Column:
    """A column that is as wide as its longest cell, and can shrink to its longest word, number or part of a name."""

    def __init__(self, texts: Sequence[str]) -> None:
        head, *values = texts
        numbers = all(_NUMBER.fullmatch(value.strip()) for value in values)
        self.is_number = numbers and any(map(str.strip, values))
        self.width = max(map(width_in_terminal, texts))
        words = [*head.split(), *(values if numbers else (word for value in values for word in value.split()))]
        self.narrowest = max(map(width_in_terminal, words), default=0)
        parts = words if numbers else [part for word in words for part in _PART.findall(word)]
        self.longest_part = max(map(width_in_terminal, parts), default=0)

    def aligned(self, cell: str) -> Text:
        """Return a cell as text. Numbers are aligned here, because Rich would ignore the spaces at their ends."""
        if self.is_number:
            text = _plain(cell)
            text.justify = "left"
            text.pad_left(self.width - width_in_terminal(cell))
            return text
        return _plain("\n".join(self._lines(cell)))

    def _lines(self, cell: str) -> list[str]:
        """Divide a text into lines of the column's width, between words or, in longer words, after hyphens."""
        lines = [""]
        for word in cell.split(" "):
            parts = _PART.findall(word) if width_in_terminal(word) > self.width else [word]
            for part, space in zip(parts, [" ", *[""] * len(parts)], strict=False):
                longer = f"{lines[-1]}{space if lines[-1] else ''}{part}"
                if lines[-1] and width_in_terminal(longer) > self.width:
                    lines.append(part)
                else:
                    lines[-1] = longer
        return lines


def _plain(text: str) -> Text:
    return Text(strip_control_characters(text))
