"""A stand-in for a server with OpenAI's interface as a process that can be killed: ``PORT DELAY LOG``.

Its replies are permutations that depend on the prompt only. It notes the prompts that it has answered in the log, and
answers each only after `HELD` seconds while there is a file with the name of the log and the suffix ``.hold``.
"""

from __future__ import annotations

import hashlib
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

from tests.backends.faulty_server import Act, FaultyServer, said

HELD = 2.0  # seconds


def permuted(body: dict[str, Any]) -> str:
    """A permutation of the identifiers in a prompt."""
    text = "\n".join(str(message["content"]) for message in body["messages"])
    identifiers = sorted(set(re.findall(r"\[\d+\]", text)))
    random.Random(text).shuffle(identifiers)  # a text as a seed does not depend on the process
    return " > ".join(identifiers)


def main(port: int, delay: float, log: Path) -> None:
    """Serve until the process is killed."""

    def answer(body: dict[str, Any]) -> Act:
        digest = hashlib.sha256(str(body["messages"]).encode()).hexdigest()
        time.sleep(delay)
        until = time.monotonic() + HELD
        while log.with_suffix(".hold").exists() and time.monotonic() < until:
            time.sleep(0.005)
        with log.open("a", encoding="utf-8") as file:
            file.write(digest + "\n")
        return said(permuted(body))

    with FaultyServer([answer], port=port):
        time.sleep(600)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
