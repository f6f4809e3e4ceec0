"""Reading of single keys from a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

#: End of input: Ctrl-D, or a closed terminal.
END = "\x04"


class Keyboard:
    """A terminal from which single keys are read without Enter. Open it with `read_keyboard_key`."""

    def __init__(self, descriptor: int) -> None:
        """Store the file descriptor of the terminal."""
        self._descriptor = descriptor

    def forget(self) -> None:
        """Discard keys that were pressed but have not been read."""
        import termios

        termios.tcflush(self._descriptor, termios.TCIFLUSH)

    def press(self) -> str:
        """Wait for a key and return it: a character, an escape sequence (as of arrow keys), or `END` if input ends."""
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
