"""Work that is shared among forked processes, which inherit what it needs and write their results to files."""

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
    """Call ``work`` with each number below ``count``, in at most ``processes`` forked processes.

    The work must not need other threads or a GPU. It runs in this process if one process is enough, and on systems
    other than Linux, where a fork may break the system's own libraries. A process takes every n-th number and ends
    by itself, so that nothing is left running if this process is killed.

    Args:
        work: The work on one number. Its result is ignored.
        count: How many numbers there are.
        processes: Largest number of processes, at least 1.

    Raises:
        BackendError: A process was killed or failed unexpectedly.
        RerankError: The work raised it.
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process gets it too, and ends this one
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
