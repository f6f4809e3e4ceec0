"""New processes, import times, and what a library adds to an installation."""

from __future__ import annotations

import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from packaging.requirements import Requirement

T = TypeVar("T")

BASE = "listrank"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options of the benchmark: sizes of the BM25 collections, and repetitions of each timing."""

    documents: tuple[int, ...]
    repeat: int


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new interpreter and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def memory(field: str) -> int:
    """Return a field of this process's status in bytes: VmRSS (resident now), VmHWM (its peak), RssAnon (not mapped).

    Linux only.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


@contextmanager
def anonymous_peak() -> Iterator[Callable[[], int]]:
    """Look at the anonymous memory every 10 ms; yields a function that returns its largest rise in bytes."""
    before, stop = memory("RssAnon"), threading.Event()
    seen = [before]

    def watch() -> None:
        while not stop.wait(0.01):
            seen.append(memory("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: max(seen) - before
    finally:
        stop.set()
        thread.join()


def cpu_seconds(action: Callable[[], object]) -> float:
    """Return the CPU seconds that one call takes in this process: other programs on the machine hardly change them."""
    began = time.process_time()
    action()
    return time.process_time() - began


def import_seconds(repeat: int, **statements: str) -> dict[str, float]:
    """Return the median CPU seconds of each import statement, minus those of an empty Python.

    The statements take turns.
    """
    times: dict[str, list[float]] = {name: [] for name in statements}
    for statement in statements.values():
        _run_seconds(statement)  # fills the file cache
    for _ in range(repeat):
        empty = _run_seconds("pass")
        for name, statement in statements.items():
            times[name].append(_run_seconds(statement) - empty)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def _run_seconds(statement: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def added(name: str) -> dict[str, Any]:
    """Return which packages a library adds to the base installation, and how many megabytes (10^6 bytes) they take."""
    packages = sorted(_closure(name) - _closure(BASE))
    return {"packages": packages, "megabytes": round(sum(map(_bytes, packages)) / 1e6, 1)}


def _closure(name: str) -> set[str]:
    """Return a distribution and everything that it requires without extras, under normalised names."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if current in found:
            continue
        found.add(current)
        requirements = map(Requirement, metadata.requires(current) or ())
        waiting += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found - {BASE}


def _bytes(name: str) -> int:
    """Return the size of an installed distribution without compiled bytecode, which depends on what was imported."""
    paths = [Path(str(file.locate())) for file in metadata.files(name) or () if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.is_file())
