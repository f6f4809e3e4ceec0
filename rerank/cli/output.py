"""Output of commands: reports on stdout in several formats, everything else on stderr."""

import itertools
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from rerank.cli.options import TableFormat
from rerank.errors import RerankError
from rerank.io.reports import Grid, Line, PlainReport, Report, TableReport, cell_text, convert_rows_to_csv, make_grid
from rerank.terminal_text import strip_control_characters, unstripped_output_stream

#: Characters that JSON may contain unescaped, and that a terminal may interpret.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def emit(report: Report, form: TableFormat = "text", *, wide: bool | None = None, most_rows: int | None = None) -> None:
    """Print a result; ``wide`` is None without such an option; ``most_rows`` limits the main table on a terminal."""
    if form == "json":
        typer.echo(format_json(report.to_dict(), indent=2 if sys.stdout.isatty() else None))
    elif form == "jsonl":
        for row in report.records():
            typer.echo(format_json(row))
    elif form == "csv":
        typer.echo(convert_rows_to_csv(report.records()), nl=False)
    elif form != "text":
        typer.echo(report.to_table(form))
    else:
        for kind, group in itertools.groupby(report.parts(), type):
            parts: list[Any] = list(group)
            if kind is TableReport:  # consecutive ones are one output, such as the comparisons of several measures
                _print_tables(parts, wide=wide, most_rows=most_rows)
                continue
            for part in parts:
                if kind is str:
                    print_note(part)
                elif kind is Line:
                    typer.echo(part)
                else:
                    _print_grid(part, wide=wide)


def emit_content(
    content: Any,
    parts: Iterable[Grid | TableReport | str],
    form: TableFormat,
    *,
    wide: bool | None = None,
    **options: Any,
) -> None:
    """Print a result that is a plain JSON value; ``options`` are further fields of `PlainReport`."""
    emit(PlainReport(content=content, shown=parts, **options), form, wide=wide)


def emit_estimate(expected: Mapping[str, Any], form: TableFormat) -> None:
    """Print an estimate as a table with one row; None is an unknown number."""
    values = ["unknown" if value is None else str(value) for value in expected.values()]
    emit_content(expected, [make_grid(expected, [values])], form)


def format_json(content: Any, *, indent: int | None = None) -> str:
    """Format a value as JSON with all control characters escaped, so that printing it does not affect a terminal."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _print_grid(grid: Grid, *, wide: bool | None) -> None:
    """Print a table without legend; a secondary table goes to stderr if stdout is a pipe or a file."""
    if grid.further and not sys.stdout.isatty():
        for row in [grid.heads, *grid.rows]:
            print_note("\t".join(map(cell_text, row)))
        return
    if grid.title and sys.stdout.isatty():
        typer.echo(f"{grid.title}\n")
    _print_tables([TableReport([grid])], wide=wide)


def _print_tables(reports: Sequence[TableReport], *, wide: bool | None, most_rows: int | None = None) -> None:
    """Print tables with their legends and notes, so that they fit the terminal.

    A pipe or file receives only the complete main table, tab-separated, with a column for the measure if there is one.
    """
    if sys.stdout.isatty():
        from rerank.cli.terminal_tables import print_report

        for number, report in enumerate(reports):
            if number:
                typer.echo("")
            print_report(report, wide=wide, most_rows=most_rows)
        return

    has_measures = any(report.measure for report in reports)
    typer.echo("\t".join([*(["measure"] if has_measures else []), *reports[0].main.heads]))
    for report in reports:
        for row in report.main.rows:
            cells = [*([report.measure] if has_measures else []), *map(cell_text, row)]
            typer.echo("\t".join(" ".join(cell.split()) for cell in cells))
    for line in dict.fromkeys(line for report in reports for line in (*report.legend, *report.notes)):
        print_note(line)


def print_note(message: str) -> None:
    """Print a message on stderr; a terminal gets lines that fit it, broken between words."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
        lines = (wrapped for line in message.split("\n") for wrapped in textwrap.wrap(line, width, **options) or [""])
        message = "\n".join(lines)
    typer.echo(message, err=True)


def print_error(error: RerankError) -> None:
    """Print an error on stderr, in one line: a line break can only come from a name or a text of others."""
    text = strip_control_characters(f"error: {error}").replace("\n", "\\n")
    typer.secho(text, file=unstripped_output_stream(sys.stderr), fg="red" if sys.stderr.isatty() else None)


def format_windows(windows: Mapping[str, int]) -> str:
    """Format the number of judged windows per status, such as ``12 ok, 1 repaired``."""
    return ", ".join(f"{n} {status}" for status, n in windows.items() if n) or "none"
