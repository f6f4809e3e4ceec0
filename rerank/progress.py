"""How far long work is: a bar where stderr is a terminal, else a line now and then. Knows no work of any kind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

#: Seconds between two signs of life where there is no terminal.
_EVERY = 30.0


def say(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def progress(title: str, total: int, done: int = 0, *, bound: str = "") -> Generator[Callable[[int], None]]:
    """Yield a function that is told how many more are done.

    Args:
        title: What is counted.
        total: How many there are.
        done: How many of them an earlier process did.
        bound: What stands before the total where it is one, such as ``at most``.
    """
    if not sys.stderr.isatty():
        yield _lines(title, f"{bound} {total}".strip(), done)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda more: bar.advance(task, more)


def _lines(title: str, total: str, done: int) -> Callable[[int], None]:
    """Say how far it is, at most twice a minute: short work stays silent."""
    said = time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, said
        done += more
        if time.monotonic() - said >= _EVERY:
            said = time.monotonic()
            say(f"{title}: {done} of {total}")

    return advance
