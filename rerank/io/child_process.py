"""Trying out in a child process what may not end: work on templates that come from somebody else."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path


def ends_in_child_process(work: Callable[[], object], *, seconds: float = 5.0, memory: int = 1 << 30) -> bool:
    """Return whether work ends within limits of time and memory; its result and its ordinary errors are ignored.

    The process is forked, which takes milliseconds, so the work must not need other threads or a GPU.

    Args:
        work: What to try.
        seconds: Limit of the time.
        memory: Limit of the additional memory, in bytes; only on Linux.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about other threads, which the child does not need
        pid = os.fork()
    if not pid:
        _work_and_exit(work, memory)
    deadline = time.monotonic() + seconds
    pause = 0.001
    try:
        while time.monotonic() < deadline:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                pid = 0
                return status == 0
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return False
    finally:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _work_and_exit(work: Callable[[], object], memory: int) -> None:
    code = 1
    try:
        _limit_memory(memory)
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001, since the child must never return to the caller's code
        code = int(_is_lack_of_memory(error))
    finally:
        os._exit(code)


def _limit_memory(memory: int) -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):  # no /proc, or a lower limit is set already
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)


def _is_lack_of_memory(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, MemoryError) or _is_lack_of_memory(error.__cause__))
