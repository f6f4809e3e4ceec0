"""Tables on a terminal: text on the left, numbers on the right, as wide as the terminal, without broken words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rerank.io.table_formats import Grid, TableReport, table_as_text_cells, width_in_terminal
from rerank.terminal_text import strip_terminal_control_characters

#: A cell with a number, a percentage or an interval, or with what stands for a missing number.
_NUMBER = re.compile(r"[<>±+-]?[\d.]+[%*\u1d43-\u1dbb†‡↑↓]*|[\[(].*[\d.]+.*[\])]|[\d/]+|[-–]|unknown|")
#: Columns of the terminal between two columns of a table.
_GAP = 2


def print_terminal_report(report: TableReport, *, wide: bool, most_rows: int | None) -> None:
    """Print tables, their legend and notes on a terminal.

    Minor columns are left out unless ``wide`` is set. If a table is still too wide, its cells with a short text show
    that, and text is wrapped between words. Numbers are never cut, even if lines then exceed the terminal.

    Args:
        report: The tables.
        wide: Show all columns.
        most_rows: Largest number of rows of the main table; None for all.
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
    hidden = [grid.heads[index] for grid in report.grids for index in sorted(grid.minor)]
    if hidden and not wide:
        console.print(_plain(f"Columns not shown: {', '.join(hidden)}; --wide shows them."))


def _print_grid(grid: Grid, console: Console) -> None:
    cells = table_as_text_cells(grid)
    if _width_of_table(cells) > console.width:
        cells = table_as_text_cells(grid, short=True)
    columns = list(zip(*cells, strict=True))
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), show_header=False)
    narrowest = -_GAP
    for head, *values in columns:
        is_number = all(_NUMBER.fullmatch(value.strip()) for value in values)
        words = [head, *values] if is_number else [word for value in (head, *values) for word in value.split()]
        width = max(map(width_in_terminal, words), default=0)
        narrowest += width + _GAP
        table.add_column(
            justify="right" if is_number and any(map(str.strip, values)) else "left",
            no_wrap=is_number,
            min_width=min(width, console.width // 2),
            overflow="fold",
        )
    for row in cells:
        # Rich would remove the spaces that stand for missing marks.
        table.add_row(*(_plain(cell.rstrip() + "\u00a0" * (len(cell) - len(cell.rstrip()))) for cell in row))
    console.print(table, width=max(console.width, narrowest), soft_wrap=False, crop=False, no_wrap=False)


def _width_of_table(cells: Sequence[Sequence[str]]) -> int:
    widths = [max(map(width_in_terminal, column)) for column in zip(*cells, strict=True)]
    return sum(widths) + _GAP * (len(widths) - 1)


def _plain(text: str) -> Text:
    return Text(strip_terminal_control_characters(text))
