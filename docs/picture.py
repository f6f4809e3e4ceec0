"""Draw what a command prints on a terminal, such as the picture of README.md.

python docs/picture.py docs/images/compare.svg --width 84 -- rerank compare smollm2-135m.trec bm25.trec --qrels QRELS
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import re
import subprocess
from pathlib import Path

from rich.console import Console
from rich.text import Text


def on_a_terminal(command: list[str], width: int) -> str:
    """What a command prints on a terminal, colours included; its notes on stderr are left out."""
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": str(width), "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=follower, stderr=subprocess.DEVNULL, env=environment):
        os.close(follower)
        printed = b""
        with contextlib.suppress(OSError):  # how Linux says that the other side has closed
            while data := os.read(leader, 4096):
                printed += data
    os.close(leader)
    return printed.decode("utf-8").replace("\r\n", "\n")


def main() -> None:
    """Run a command and keep its picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--title", default="", help="by default the command")
    parser.add_argument("--width", type=int, default=80)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=options.width, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(on_a_terminal(options.command, options.width).rstrip()))
    drawn = console.export_svg(title=options.title or " ".join(options.command))
    fonts = re.compile(r"@font-face \{.*?\}", re.DOTALL)  # fetched from elsewhere; the reader's own will do
    options.picture.write_text(fonts.sub("", drawn), encoding="utf-8")


if __name__ == "__main__":
    main()
