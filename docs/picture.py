"""Draw docs/images/demo.svg: what `rerank demo` prints, from its finished run folders.

python docs/picture.py        (after `rerank demo`, in the same folder)
"""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
from pathlib import Path

from rich.console import Console
from rich.text import Text


def on_a_terminal(*command: str) -> str:
    """What a command prints on a terminal, colours included; its notes on stderr are left out."""
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": "136", "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=follower, stderr=subprocess.DEVNULL, env=environment):
        os.close(follower)
        printed = b""
        with contextlib.suppress(OSError):  # how Linux says that the other side has closed
            while data := os.read(leader, 4096):
                printed += data
    os.close(leader)
    return printed.decode("utf-8").replace("\r\n", "\n")


def main() -> None:
    """Run the demonstration once more and keep its picture."""
    text = Text.from_ansi(on_a_terminal("rerank", "demo"))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=136, file=nowhere, force_terminal=True)
        console.print(text)
    picture = Path(__file__).parent / "images" / "demo.svg"
    picture.parent.mkdir(exist_ok=True)
    picture.write_text(console.export_svg(title="rerank demo"), encoding="utf-8")


if __name__ == "__main__":
    main()
