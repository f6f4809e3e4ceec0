"""Output of commands: results on stdout in three formats, everything else on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from rerank.errors import RerankError
from rerank.terminal_text import strip_terminal_control_characters, unstripped_output_stream

Format = Literal["text", "json", "jsonl"]
FormatOption = Annotated[
    Format, typer.Option("--format", help="Output format: text, json, or jsonl (one object per line).")
]
#: Formats of commands whose result is a table for a paper.
TableFormat = Literal["text", "json", "jsonl", "csv", "latex", "markdown", "html"]
TableFormatOption = Annotated[
    TableFormat,
    typer.Option(
        "--format",
        help="Output format: text, json, jsonl (one object per line), csv, latex (booktabs), markdown or html.",
    ),
]
#: Characters that JSON may contain unescaped, and that a terminal may obey.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def emit_output(
    content: Mapping[str, Any] | Sequence[Any],
    *,
    form: TableFormat,
    text: Callable[[], None],
    rows: str = "",
    table: Callable[[Any], str] | None = None,
    records: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Print one result in the requested format.

    Args:
        content: The result, which ``json`` prints as one object or list.
        form: The output format.
        text: Function that prints the result as text.
        rows: Key of the list whose items ``jsonl`` prints one per line; if empty, the whole result is one line.
        table: Function that returns the result in the formats latex, markdown and html; needed if they can be chosen.
        records: Rows that ``csv`` and ``jsonl`` print instead of those under ``rows``.
    """
    if form in ("latex", "markdown", "html") and table is not None:
        typer.echo(table(form))
    elif form == "csv":
        from rerank.io.csv_tables import convert_rows_to_csv

        typer.echo(convert_rows_to_csv(_output_rows(content, rows) if records is None else records), nl=False)
    elif form == "text":
        text()
    elif form == "json":
        typer.echo(format_json_output(content, indent=None if not sys.stdout.isatty() else 2))
    else:
        for row in _output_rows(content, rows) if records is None else records:
            typer.echo(format_json_output(row))


def format_json_output(content: Any, *, indent: int | None = None) -> str:
    """Format a value as JSON in which all control characters are escaped, so that printing it changes nothing."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _output_rows(content: Mapping[str, Any] | Sequence[Any], key: str) -> Iterable[Any]:
    if not isinstance(content, Mapping):
        return content
    return content[key] if key else [content]


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print a table on stdout. It is formatted for reading on a terminal, and tab-separated in a pipe or file."""
    if not sys.stdout.isatty():
        typer.echo("\t".join(headers))
        for row in rows:
            typer.echo("\t".join(str(cell) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell_text(cell: object) -> Text:
        return Text(strip_terminal_control_characters(str(cell)))

    table = Table(title=cell_text(title) if title else None, box=box.SIMPLE_HEAD)
    for column, header in enumerate(headers):
        table.add_column(cell_text(header), justify="left" if column == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(cell_text, row))
    Console().print(table)


def print_note(message: str) -> None:
    """Print a message on stderr."""
    typer.echo(message, err=True)


def print_error(error: RerankError) -> None:
    """Print an error on stderr."""
    text, colour = strip_terminal_control_characters(f"error: {error}"), "red" if sys.stderr.isatty() else None
    typer.secho(text, file=unstripped_output_stream(sys.stderr), fg=colour)


def format_number_cell(value: float | None, digits: int = 4) -> str:
    """Format a number for a table. A missing number becomes a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def format_window_counts(windows: Mapping[str, int]) -> str:
    """Format the number of windows per status, such as ``12 ok, 1 repaired``."""
    return ", ".join(f"{n} {status}" for status, n in windows.items() if n) or "none"
