"""Removal of control characters from everything that is shown on a terminal.

Ids, file names, replies and messages of servers may contain control sequences, which could change what a terminal
shows or does. `strip_output_streams` therefore removes them from all that is written to stdout and stderr.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

#: Marks that change the direction of text, which can make it look like other text.
_DIRECTION_MARKS = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
_BREAKS = str.maketrans({"\u2028": "\n", "\u2029": "\n", "\x0b": "\n", "\x0c": "\n", "\x85": "\n"})
#: Control sequences that end in a known character (CSI), and those that end in BEL or ST (OSC, DCS and others).
_SEQUENCES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)")


def strip_control_characters(text: str) -> str:
    r"""Return text without control characters and direction marks, safe to print on a terminal.

    >>> strip_control_characters("red \x1b[31malert\r\nbell\a")
    'red alert\nbell'
    """
    if text.isascii() and text.isprintable():
        return text
    lines = _SEQUENCES.sub("", text).replace("\r\n", "\n").replace("\r", "\n").translate(_BREAKS)
    return "".join(
        c for c in lines if c in "\n\t" or not (unicodedata.category(c) in ("Cc", "Cs") or c in _DIRECTION_MARKS)
    )


class _StrippedStream:
    """A text stream that removes control characters from all text that is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream
        # Streams of Rich have no encoding: Typer would treat them as misconfigured and write to the wrapped stream.
        self.encoding = stream.encoding or "utf-8"

    def write(self, text: str) -> int:
        start = "\r" if text.startswith("\r") else ""  # progress bars of libraries return to the start of their line
        self.rich_proxied_file.write(start + strip_control_characters(text[len(start) :]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def strip_output_streams() -> None:
    """Remove control characters from all that this process writes to stdout and stderr from now on, except by Rich."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), _StrippedStream):
            setattr(sys, name, _StrippedStream(getattr(sys, name)))


@contextmanager
def stripped_output_streams() -> Iterator[None]:
    """Remove control characters from stdout and stderr, as `strip_output_streams` does, until the context ends."""
    before = sys.stdout, sys.stderr
    strip_output_streams()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def unstripped_output_stream(stream: TextIO) -> TextIO:
    """Return the original stream below a `_StrippedStream`, or any other stream itself, for output without changes."""
    return cast(TextIO, getattr(stream, "rich_proxied_file", stream))
