"""Distribution of work over forked processes, which inherit the data they need and write their results to files."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from rerank.errors import BackendError, RerankError


def available_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_forked_processes(work: Callable[[int], None], count: int, processes: int) -> None:
    """Call ``work`` with each number from 0 to ``count - 1``, in at most ``processes`` forked processes.

    ``work`` must not need other threads or a GPU. It is called in this process if one process is enough, and on systems
    other than Linux, where a fork may break the system's own libraries. Each of n processes handles every n-th number
    and then ends, so that no process remains if this process is killed.

    Args:
        work: Function that is called with each number; its result is ignored.
        count: Number of calls.
        processes: Maximum number of processes, at least 1.
    """
    processes = min(processes, count) if sys.platform == "linux" else 1
    if processes <= 1:
        for number in range(count):
            work(number)
        return
    context = multiprocessing.get_context("fork")
    running = []
    try:
        for first in range(processes):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work_on_numbers, args=(work, range(first, count, processes), sender))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # about other threads, which the work does not need
                process.start()
            sender.close()
            running.append((process, receiver))
        waiting: list[Any] = [receiver for _, receiver in running]
        while waiting:
            for ready in wait(waiting):
                _raise_error_of_process(ready)
                waiting.remove(ready)
    except BaseException:
        for process, _ in running:
            process.kill()
        raise
    finally:
        for process, receiver in running:
            process.join()
            receiver.close()


def _raise_error_of_process(receiver: Any) -> None:
    try:
        error = receiver.recv()
    except EOFError:
        raise BackendError(
            "A process was killed before its work was done",
            remedy="Check whether memory or the disk is full, and use fewer processes or smaller shards",
        ) from None
    if error:
        raise error


def _work_on_numbers(work: Callable[[int], None], numbers: range, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process also receives Ctrl-C, and kills this one
    error: RerankError | None = None
    try:
        for number in numbers:
            work(number)
    except RerankError as raised:
        error = raised
    except Exception as raised:  # noqa: BLE001, since a process can only report its errors
        error = BackendError(f"A process failed: {type(raised).__name__}: {raised}")
    with contextlib.suppress(BrokenPipeError):
        sender.send(error)
