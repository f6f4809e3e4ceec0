"""Output of commands: results on stdout in three formats, everything else on stderr."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rerank.errors import RerankError
from rerank.terminal_text import strip_terminal_control_characters, unstripped_output_stream

if TYPE_CHECKING:
    from rerank.io.reports import Grid, Report, TableReport

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
WideOption = Annotated[bool, typer.Option("--wide", help="Show all columns on a terminal.")]


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options for the output of a command whose result is a wide table."""

    wide: WideOption = False
    form: TableFormatOption = "text"


#: Characters that JSON may contain unescaped, and that a terminal may interpret.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def emit_output(
    content: Mapping[str, Any] | Sequence[Any],
    *,
    form: TableFormat,
    text: Callable[[], None] | None = None,
    rows: str = "",
    reports: Sequence[TableReport] = (),
    records: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Print the result of a command in the requested format.

    Args:
        content: The result, which ``json`` prints as one object or list.
        form: The output format.
        text: Function that prints the result as text; if omitted, ``reports`` are printed.
        rows: Key of the list whose items ``jsonl`` prints one per line; if empty, the whole result is one line.
        reports: The result as tables; needed if latex, markdown or html can be chosen.
        records: Rows that ``csv`` and ``jsonl`` print instead of those under ``rows``.
    """
    if form in ("latex", "markdown", "html"):
        typer.echo("\n\n".join(report.format(form) for report in reports))
    elif form == "csv":
        from rerank.io.csv_tables import convert_rows_to_csv

        typer.echo(convert_rows_to_csv(_output_rows(content, rows) if records is None else records), nl=False)
    elif form == "text" and text is not None:
        text()
    elif form == "text":
        print_reports(reports)
    elif form == "json":
        typer.echo(format_json_output(content, indent=None if not sys.stdout.isatty() else 2))
    else:
        for row in _output_rows(content, rows) if records is None else records:
            typer.echo(format_json_output(row))


def emit(report: Report, form: TableFormat = "text", *, wide: bool | None = None, most_rows: int | None = None) -> None:
    """Print the result of a command in the requested format.

    Args:
        report: The result.
        wide: Whether to show all columns on a terminal; None if the command has no option for this.
        most_rows: Maximum number of rows of a main table on a terminal; None for all.
    """
    if form == "json":
        typer.echo(format_json_output(report.to_dict(), indent=2 if sys.stdout.isatty() else None))
    elif form == "jsonl":
        for row in report.records():
            typer.echo(format_json_output(row))
    elif form == "csv":
        from rerank.io.csv_tables import convert_rows_to_csv

        typer.echo(convert_rows_to_csv(report.records()), nl=False)
    elif form != "text":
        typer.echo(report.to_table(form))
    else:
        from rerank.io.reports import TableReport

        for kind, group in itertools.groupby(report.parts(), type):
            parts: list[Any] = list(group)
            if kind is TableReport:  # consecutive ones are one output, such as the comparisons of several measures
                print_reports(parts, wide=wide, most_rows=most_rows)
                continue
            for part in parts:
                if kind is str:
                    print_note(part)
                else:
                    _print_grid(part, wide=wide)


def _print_grid(grid: Grid, *, wide: bool | None) -> None:
    """Print a table without legend; a secondary table goes to stderr if stdout is a pipe or a file."""
    from rerank.io.reports import TableReport, cell_text

    if grid.further and not sys.stdout.isatty():
        for row in [grid.heads, *grid.rows]:
            print_note("\t".join(map(cell_text, row)))
        return
    if grid.title and sys.stdout.isatty():
        typer.echo(f"{grid.title}\n")
    print_reports([TableReport([grid])], wide=wide)


def format_json_output(content: Any, *, indent: int | None = None) -> str:
    """Format a value as JSON with all control characters escaped, so that printing it does not affect a terminal."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _output_rows(content: Mapping[str, Any] | Sequence[Any], key: str) -> Iterable[Any]:
    if not isinstance(content, Mapping):
        return content
    return content[key] if key else [content]


def print_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    minor: Collection[str] = (),
    wide: bool = False,
    further: bool = False,
) -> None:
    """Print a table on stdout. The table is aligned on a terminal, and tab-separated in a pipe or file.

    Args:
        headers: Headings of the columns.
        rows: The cells of each row, which are converted to text.
        title: Line that is printed above the table on a terminal.
        minor: Headings of columns that a terminal shows only if ``wide`` is set.
        wide: Whether to show all columns on a terminal.
        further: Whether the table is secondary, so that it is printed on stderr if stdout is a pipe or a file.
    """
    from rerank.io.reports import Grid, TableReport

    cells = [list(map(str, row)) for row in rows]
    if further and not sys.stdout.isatty():
        for row in [headers, *cells]:
            print_note("\t".join(row))
        return
    if title and sys.stdout.isatty():
        typer.echo(f"{title}\n")
    hidden = [index for index, head in enumerate(headers) if head in minor]
    print_reports([TableReport([Grid(headers, cells, minor=hidden)])], wide=wide)


def print_reports(reports: Sequence[TableReport], *, wide: bool | None = None, most_rows: int | None = None) -> None:
    """Print tables with their legends and notes, so that they fit the terminal.

    A pipe or file receives only the complete main table, tab-separated, with a column for the measure if there is one;
    legends and notes then go to stderr.

    Args:
        reports: The tables.
        wide: Whether to show all columns on a terminal; None if the command has no option for this.
        most_rows: Maximum number of rows of the main table on a terminal; None for all.
    """
    if not sys.stdout.isatty():
        _print_tab_separated([(report.measure, report.main) for report in reports])
        for line in dict.fromkeys(line for report in reports for line in (*report.legend, *report.notes)):
            print_note(line)
        return
    from rerank.cli.terminal_tables import print_terminal_report

    for number, report in enumerate(reports):
        if number:
            typer.echo("")
        print_terminal_report(report, wide=wide, most_rows=most_rows)


def _print_tab_separated(tables: Sequence[tuple[str, Grid]]) -> None:
    from rerank.io.reports import cell_text

    has_measures = any(measure for measure, _ in tables)
    typer.echo("\t".join([*(["measure"] if has_measures else []), *tables[0][1].heads]))
    for measure, grid in tables:
        for row in grid.rows:
            cells = [*([measure] if has_measures else []), *map(cell_text, row)]
            typer.echo("\t".join(" ".join(cell.split()) for cell in cells))


def print_note(message: str) -> None:
    """Print a message on stderr; a terminal gets lines that fit it, broken between words."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
        lines = (wrapped for line in message.split("\n") for wrapped in textwrap.wrap(line, width, **options) or [""])
        message = "\n".join(lines)
    typer.echo(message, err=True)


def print_error(error: RerankError) -> None:
    """Print an error on stderr."""
    text, colour = strip_terminal_control_characters(f"error: {error}"), "red" if sys.stderr.isatty() else None
    typer.secho(text, file=unstripped_output_stream(sys.stderr), fg=colour)


def format_number_cell(value: float | None, digits: int = 4) -> str:
    """Format a number for a table, with a fixed number of decimals; None becomes a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def format_window_counts(windows: Mapping[str, int]) -> str:
    """Format the number of judged windows per status, such as ``12 ok, 1 repaired``."""
    return ", ".join(f"{n} {status}" for status, n in windows.items() if n) or "none"
