"""Reading single keys from a terminal, and removing control characters from text before it is shown on a terminal."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

#: End of input: Ctrl-D, or a closed terminal.
END = "\x04"
#: Marks that change the direction of text, which can make it look like other text.
_DIRECTION_MARKS = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
_BREAKS = str.maketrans({"\u2028": "\n", "\u2029": "\n", "\x0b": "\n", "\x0c": "\n", "\x85": "\n"})


class Keyboard:
    """A terminal from which single keys are read. Create it with `read_keyboard_key`."""

    def __init__(self, descriptor: int) -> None:
        """Store the file descriptor of the terminal."""
        self._descriptor = descriptor

    def forget(self) -> None:
        """Discard keys that were pressed but have not been read."""
        import termios

        termios.tcflush(self._descriptor, termios.TCIFLUSH)

    def press(self) -> str:
        """Wait for a key and return it: one character, an escape sequence (such as an arrow key), or `END`."""
        try:
            text = os.read(self._descriptor, 32).decode("utf-8", "replace")
        except OSError:  # the terminal was closed
            return END
        return text if text.startswith("\x1b") else text[:1] or END


@contextmanager
def read_keyboard_key(stream: TextIO) -> Iterator[Keyboard]:
    """Yield a keyboard that reads keys one by one, without Enter and without echo. Ctrl-C still interrupts.

    Args:
        stream: A terminal. Its settings are restored when the context ends.
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


def strip_terminal_control_characters(text: str) -> str:
    r"""Return text without control characters and direction marks, safe to print on a terminal.

    >>> strip_terminal_control_characters("red \x1b[31malert\r\nbell\a")
    'red [31malert\nbell'
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").translate(_BREAKS)
    return "".join(
        c for c in lines if c in "\n\t" or not (unicodedata.category(c) in ("Cc", "Cs") or c in _DIRECTION_MARKS)
    )
