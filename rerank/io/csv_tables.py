"""CSV tables for people, who may open them in a spreadsheet program."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

#: Beginnings of formulas: operators, also in full width, after any blanks.
_FORMULA = re.compile(r"[\t\n]|\s*[=+@\uff1d\uff0b\uff0d\uff20-]")


def format_csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV with a header.

    Spreadsheet programs evaluate a text that looks like a formula, and formulas can run programs and send data. Such a
    text gets an apostrophe at its beginning, which the programs do not show. Numbers are not changed.

    Args:
        columns: Names of the columns.
        rows: One value per column; None becomes an empty cell.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([_harmless_csv_cell(cell) for cell in row] for row in (columns, *rows))
    return stream.getvalue()


def _harmless_csv_cell(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r\n", "\n").replace("\r", "\n")  # a lone carriage return is not quoted, and would end the row
    if not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
