"""The command line in a process that sends itself a signal at a chosen change of the files below its working folder.

Run as a script: ``ended_command.py SIGNAL CHANGE DELAY COUNTS -- ARGUMENTS``. The signal is sent ``DELAY`` seconds
after change number ``CHANGE`` begins (0: never). At the end, the number of changes is written to the file ``COUNTS``.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

#: Events of Python's audit hooks that change files, as documented in its table of audit events.
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate", "sqlite3.connect"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class SignalAtChange:
    """An audit hook that counts changes of files, and sends the signal at one of them."""

    def __init__(self, number: int, change: int, delay: float) -> None:
        self.changes = 0
        self._number, self._change, self._delay = number, change, delay
        self._folder = str(Path.cwd())

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        changes = args[2] & WRITING if event == "open" and isinstance(args[2], int) else event in CHANGES
        if not changes or not isinstance(args[0], (str, Path)) or not os.path.abspath(args[0]).startswith(self._folder):
            return
        self.changes += 1
        if self.changes == self._change:
            if self._delay:
                threading.Thread(target=self._send, daemon=True).start()
            else:
                os.kill(os.getpid(), self._number)

    def _send(self) -> None:
        time.sleep(self._delay)
        os.kill(os.getpid(), self._number)


def main() -> None:
    number, change, delay, counts = sys.argv[1:5]
    sys.argv = ["rerank", *sys.argv[6:]]
    hook = SignalAtChange(int(number), int(change), float(delay))
    atexit.register(lambda: Path(counts).write_text(str(hook.changes), encoding="ascii"))
    sys.addaudithook(hook)
    from rerank.__main__ import main as command_line

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored before, as long as only Python itself starts
    command_line()


if __name__ == "__main__":
    main()
