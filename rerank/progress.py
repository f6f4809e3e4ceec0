"""Progress of long operations on stderr: a bar on a terminal, otherwise a line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

from rerank.terminal_text import strip_terminal_control_characters, stripped_output_streams

#: A function such as `show_progress`. It opens a progress display from a title, the total number of items and the
#: number of items already done, and yields a function that is called with the number of further items done.
ProgressFactory = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]

#: Seconds between two lines if stderr is not a terminal.
_INTERVAL = 30.0


def write_progress_line_to_stderr(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def show_progress(title: str, total: int, done: int = 0, *, bound: str = "") -> Generator[Callable[[int], None]]:
    """Yield a function that advances the progress by a number of items.

    Args:
        title: Text shown before the progress, such as ``embedding documents``.
        total: Total number of items.
        done: Number of items that an earlier process finished.
        bound: Text before the total if it is a bound, such as ``at most``.
    """
    if not sys.stderr.isatty():
        yield _progress_line_writer(title, f"{bound} {total}".strip(), done)
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

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # While a bar is shown, Rich replaces both streams, and what is written to them must be stripped, too.
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr)) as bar, stripped_output_streams():
        task = bar.add_task(strip_terminal_control_characters(title), total=total, completed=done)
        yield lambda more: bar.advance(task, more)


def _progress_line_writer(title: str, total: str, done: int) -> Callable[[int], None]:
    """Return a function that writes a line at most every `_INTERVAL` seconds; for short operations, it writes none."""
    last_line = time.monotonic()

    def advance(more: int) -> None:
        nonlocal done, last_line
        done += more
        if time.monotonic() - last_line >= _INTERVAL:
            last_line = time.monotonic()
            write_progress_line_to_stderr(f"{title}: {done} of {total}")

    return advance
