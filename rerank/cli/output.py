"""How commands speak: data on stdout in three formats, everything else on stderr. Knows no command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from rerank.errors import RerankError

Format = Literal["text", "json", "jsonl"]
FormatOption = Annotated[
    Format, typer.Option("--format", help="text for people, json or jsonl (one object a row) for programs.")
]


def emit(content: Mapping[str, Any] | Sequence[Any], *, form: Format, text: Callable[[], None], rows: str = "") -> None:
    """Print one result in the format that was asked for.

    Args:
        content: The result; with ``json`` it is printed as one object, or as a list where it is one.
        form: The format.
        text: Prints it for people.
        rows: Key of the list that ``jsonl`` prints a line each of; empty: the whole result is one line.
    """
    if form == "text":
        text()
    elif form == "json":
        typer.echo(json.dumps(content, ensure_ascii=False, indent=None if not sys.stdout.isatty() else 2))
    else:
        for row in _rows(content, rows):
            typer.echo(json.dumps(row, ensure_ascii=False))


def _rows(content: Mapping[str, Any] | Sequence[Any], key: str) -> Iterable[Any]:
    if not isinstance(content, Mapping):
        return content
    return content[key] if key else [content]


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """Print a table on stdout: drawn on a terminal, tab-separated when piped."""
    if not sys.stdout.isatty():
        typer.echo("\t".join(headers))
        for row in rows:
            typer.echo("\t".join(str(cell) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, box=box.SIMPLE_HEAD)
    for at, header in enumerate(headers):
        drawn.add_column(header, justify="left" if at == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(str(cell)) for cell in row))
    Console().print(drawn)


def note(message: str) -> None:
    """Say something on stderr."""
    typer.echo(message, err=True)


def complain(error: RerankError) -> None:
    """Print an error on stderr."""
    typer.secho(f"error: {error}", err=True, fg="red" if sys.stderr.isatty() else None)


def number(value: float | None, digits: int = 4) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def counts(windows: Mapping[str, int]) -> str:
    """How windows went, in words: ``12 ok, 1 repaired``."""
    return ", ".join(f"{n} {status}" for status, n in windows.items() if n) or "none"
