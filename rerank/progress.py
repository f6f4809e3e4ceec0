"""Progress of long operations on stderr: a bar on a terminal, otherwise a line every 30 seconds."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

from rerank.terminal_text import strip_control_characters, stripped_output_streams

#: A function such as `show_progress`. It opens a progress display from a title, the total number of items and the
#: number of items already done, and yields a function that is called with the number of further items done.
ProgressFactory = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]

_INTERVAL = 30.0  #: Seconds between two lines if stderr is not a terminal.


def write_note_to_stderr(text: str) -> None:
    """Write a line, such as a note on what the process waits for, to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def show_progress(title: str, total: int, done: int = 0, *, bound: str = "") -> Generator[Callable[[int], None]]:
    """Yield a function that advances the progress by a number of items; ``bound`` is a word such as "at most"."""
    started, before = time.monotonic(), done
    with show_detailed_progress(title, total, done, bound=bound) as show:

        def advance(more: int) -> None:
            nonlocal done
            done += more
            new = done - before
            seconds = (time.monotonic() - started) * (total - done) / new if new and done < total else None
            show(done, format_time_left(seconds, bound=bound))

        yield advance


@contextmanager
def show_detailed_progress(
    title: str, total: int, done: int = 0, *, bound: str = ""
) -> Generator[Callable[[int, str], None]]:
    """Yield a function that shows how many items are done, with details such as the speed, like `show_progress`."""
    if not sys.stderr.isatty():
        yield line_writer(title, f"{bound} {total}".strip())
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    texts = [TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[details]")]
    columns = (texts[0], BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn(), texts[1])
    # While a bar is shown, Rich replaces both streams, and what is written to them must be stripped, too.
    with Progress(*columns, console=Console(file=sys.stderr), expand=True) as bar, stripped_output_streams():
        task = bar.add_task(strip_control_characters(title), total=total, completed=done, details="")
        yield lambda done, details: bar.update(task, completed=done, details=details)


def format_time_left(seconds: float | None, *, bound: str = "") -> str:
    """Return a remaining time as text, such as ``3 min left``; an empty text if it is not known."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"{bound} {hours if seconds >= 90 else f'{seconds:.0f} s'} left".strip()


def line_writer(title: str, total: str) -> Callable[[int | str, str], None]:
    """Return a function that writes how much is done, and details, to stderr every 30 seconds."""
    last_line = time.monotonic()

    def show(done: int | str, details: str) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= _INTERVAL:
            last_line = time.monotonic()
            write_note_to_stderr(", ".join(filter(None, [f"{title}: {done} of {total}", details])))

    return show
