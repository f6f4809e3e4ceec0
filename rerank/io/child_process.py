"""A function that runs untrusted work, such as rendering a downloaded template, in a child process with limits."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import warnings
from collections.abc import Callable
from pathlib import Path


def ends_in_child_process(work: Callable[[], object], *, seconds: float = 5.0, memory: int = 1 << 30) -> bool:
    """Return whether a function ends within limits of time and memory.

    What the function returns or raises is ignored, but an exception that reports a lack of memory counts as exceeding
    the limit. The function is called in a forked process, which starts in milliseconds but has neither other threads
    nor a GPU.

    Args:
        work: Function without arguments.
        seconds: Time limit.
        memory: Limit of the additional memory, in bytes; enforced only on Linux.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about other threads, which the child does not need
        # The result comes through a pipe, since there is no exit status if SIGCHLD is ignored.
        read_end, write_end = os.pipe()
        pid = os.fork()
    if not pid:
        _work_and_exit(work, memory, write_end)
    os.close(write_end)
    ended = False
    try:
        poll = select.poll()
        poll.register(read_end)
        ended = bool(poll.poll(1000 * seconds))
        return ended and os.read(read_end, 1) == b"\0"
    finally:
        os.close(read_end)
        if not ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored, so the system has removed the process
            os.waitpid(pid, 0)


def _work_and_exit(work: Callable[[], object], memory: int, write_end: int) -> None:
    code = 1
    try:
        _limit_memory(memory)
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001, since the child must never return to the caller's code
        code = int(_is_lack_of_memory(error))
    finally:
        try:
            os.write(write_end, bytes([code]))
        finally:
            os._exit(code)


def _limit_memory(memory: int) -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):  # no /proc, or a lower limit is set already
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)


def _is_lack_of_memory(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, MemoryError) or _is_lack_of_memory(error.__cause__))
