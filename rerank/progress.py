"""Progress of long operations on stderr: a bar on a terminal, otherwise a line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

#: Opens a progress display from a title, the total and the number of items already done; the function that it yields is
#: called with the number of further items. `show_progress` is one.
ProgressFactory = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]

#: Seconds between two lines if stderr is not a terminal.
_INTERVAL = 30.0


def write_progress_status(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def show_progress(title: str, total: int, done: int = 0, *, bound: str = "") -> Generator[Callable[[int], None]]:
    """Yield a function that advances the progress by a number of items.

    Args:
        title: Name of the items.
        total: Total number of items.
        done: Number of items that an earlier process finished.
        bound: Text before the total if it is a bound, such as ``at most``.
    """
    if not sys.stderr.isatty():
        yield _progress_lines(title, f"{bound} {total}".strip(), done)
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


def _progress_lines(title: str, total: str, done: int) -> Callable[[int], None]:
    """Return a function that writes a line at most every `_INTERVAL` seconds; short operations write nothing."""
    last_line = time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, last_line
        done += more
        if time.monotonic() - last_line >= _INTERVAL:
            last_line = time.monotonic()
            write_progress_status(f"{title}: {done} of {total}")

    return advance
