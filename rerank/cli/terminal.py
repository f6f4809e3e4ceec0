"""Single keys from a terminal, and strangers' text made fit to be shown on one. Knows no command."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

#: What ends the input: Ctrl-D, or a terminal that is gone.
END = "\x04"
#: Marks that turn the direction of what follows, so that a text could pose as another.
_TURNING = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
_BREAKS = str.maketrans({"\u2028": "\n", "\u2029": "\n", "\x0b": "\n", "\x0c": "\n", "\x85": "\n"})


class Keyboard:
    """Keys as they are pressed. Made by `keyboard`."""

    def __init__(self, descriptor: int) -> None:
        """Keep the terminal."""
        self._descriptor = descriptor

    def forget(self) -> None:
        """Drop what was pressed and not read yet."""
        import termios

        termios.tcflush(self._descriptor, termios.TCIFLUSH)

    def press(self) -> str:
        """Wait for a key: one character, a sequence that begins with escape (arrows and the like), or `END`."""
        try:
            text = os.read(self._descriptor, 32).decode("utf-8", "replace")
        except OSError:  # the terminal was closed
            return END
        return text if text.startswith("\x1b") else text[:1] or END


@contextmanager
def keyboard(stream: TextIO) -> Iterator[Keyboard]:
    """Read keys one by one, without Enter and without showing them; Ctrl-C works as ever.

    Args:
        stream: A terminal. It is as it was before when the context ends.
    """
    import termios
    import tty

    descriptor = stream.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        yield Keyboard(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def clean(text: str) -> str:
    r"""Text without anything that a terminal could take for a command, or that shows it otherwise than it is.

    >>> clean("red \x1b[31malert\r\nbell\a")
    'red [31malert\nbell'
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").translate(_BREAKS)
    return "".join(c for c in lines if c in "\n\t" or not (unicodedata.category(c) in ("Cc", "Cs") or c in _TURNING))
