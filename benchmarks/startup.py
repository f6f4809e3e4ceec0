"""Seconds of `rerank --help` and of `rerank methods`, and how many times an empty Python that is; best of ten each.

python benchmarks/startup.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time


def best(*command: str) -> float:
    """The shortest of ten runs, in seconds."""
    times = []
    for _ in range(10):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Time both commands against an interpreter that does nothing."""
    empty = best(sys.executable, "-c", "pass")
    seconds = {name: best(sys.executable, "-m", "rerank", name) for name in ("--help", "methods")}
    print(json.dumps({"python": empty, **seconds, "help_over_python": seconds["--help"] / empty}))


if __name__ == "__main__":
    main()
