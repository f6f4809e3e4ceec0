"""Counts the functions and files of this package that one warm `Reranker.rank` passes.

    python benchmarks/path.py                       # the embedded model, with its default method
    python benchmarks/path.py --model fake:reversed

The first ranking loads and fills all memos. The second one, which is counted, has a new query and the same eight texts
in reverse. A function is a pair of a file and a function name; comprehensions, properties and all threads count. The
last line is JSON; ``--list`` prints the pairs before it.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import rerank
from rerank import Reranker

ROOT = Path(rerank.__file__).parent
TEXTS = [
    f"Passage {number} is about {topic}."
    for number, topic in enumerate(
        ["cats", "the moon", "steam engines", "bread", "glaciers", "chess", "violins", "tides"], start=1
    )
]


def count_path(model: str) -> tuple[set[tuple[str, str]], list[tuple[str, str]]]:
    """Return the distinct pairs of file and function name of the second ranking, and all of its calls in order."""
    calls: list[tuple[str, str]] = []
    counting = False

    def record(frame: FrameType, event: str, argument: Any) -> None:
        if counting and event == "call" and Path(frame.f_code.co_filename).is_relative_to(ROOT):
            calls.append((str(Path(frame.f_code.co_filename).relative_to(ROOT)), frame.f_code.co_name))

    threading.setprofile(record)  # before the model is loaded: a thread that already runs would not be counted
    sys.setprofile(record)
    with Reranker.from_pretrained(model) as reranker:
        reranker.rank("what do cats eat", TEXTS)
        counting = True
        reranker.rank("how high are tides", TEXTS[::-1])
        counting = False
    sys.setprofile(None)
    return set(calls), calls


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--list", action="store_true", help="print the pairs of file and function")
    arguments = parser.parse_args()
    pairs, calls = count_path(arguments.model)
    if arguments.list:
        for path, function in sorted(pairs):
            print(f"{path}: {function}")
    files = {path for path, _ in pairs}
    print(json.dumps({"model": arguments.model, "functions": len(pairs), "files": len(files), "calls": len(calls)}))


if __name__ == "__main__":
    main()
