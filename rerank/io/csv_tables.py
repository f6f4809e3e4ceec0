"""Formatting of CSV tables that can be opened safely in a spreadsheet program."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Beginnings of formulas: operators, also in full-width form, after optional whitespace.
_FORMULA = re.compile(r"[\t\n]|\s*[=+@\uff1d\uff0b\uff0d\uff20-]")


def format_csv_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV with a header.

    Spreadsheet programs evaluate a text that looks like a formula, and formulas can run programs and send data.
    Therefore, an apostrophe, which spreadsheet programs do not show, is put before such a text. Numbers are not
    changed.

    Args:
        rows: The rows, each with one value per column; None becomes an empty cell.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([_harmless_csv_cell(cell) for cell in row] for row in (columns, *rows))
    return stream.getvalue()


def convert_rows_to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Format rows, all with the same keys, as CSV with a header; numbers keep all digits.

    A pair of numbers becomes two columns: the key ``interval`` gives ``interval_low`` and ``interval_high``. Keys whose
    values are other lists or objects are omitted.
    """
    flat = [_flatten_row_for_csv(row) for row in rows]
    return format_csv_table(list(flat[0]) if flat else [], [list(row.values()) for row in flat])


def _flatten_row_for_csv(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, list | tuple) and len(value) == 2 and isinstance(value[0], float):
            flat |= {f"{key}_low": value[0], f"{key}_high": value[1]}
        elif not isinstance(value, list | tuple | dict):
            flat[key] = value
    return flat


def _harmless_csv_cell(cell: object) -> object:
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
