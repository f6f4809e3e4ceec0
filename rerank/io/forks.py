"""Locks that a fork leaves free, although it does not copy the thread that holds them, and work in forked processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from rerank.errors import BackendError, RerankError

_Event = Literal["before_fork", "after_fork_in_parent", "after_fork_in_child"]

#: Weak references to the watched objects by ``id``, since these objects need not be hashable.
_watched: dict[int, weakref.ref[Any]] = {}
_forking: list[Any] = []  #: The objects that were watched when the current fork began.


def watch_forks(watched: object) -> None:
    """Call an object's ``before_fork``, ``after_fork_in_parent`` and ``after_fork_in_child``, if any, at each fork."""
    key = id(watched)
    _watched[key] = weakref.ref(watched, lambda _: _watched.pop(key, None))


class ForkLock:
    """A lock for ``with fork_lock.lock`` that is free in a forked process, even if another thread held it then."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        watch_forks(self)

    def __reduce__(self) -> tuple[type[ForkLock], tuple[()]]:
        return ForkLock, ()

    def after_fork_in_child(self) -> None:
        self.lock = threading.Lock()


def _before() -> None:
    _forking[:] = [watched for reference in list(_watched.values()) if (watched := reference()) is not None]
    _notify("before_fork")


def _after(event: _Event) -> None:
    _notify(event)
    _forking.clear()


def _notify(event: _Event) -> None:
    for watched in _forking:
        if (method := getattr(watched, event, None)) is not None:
            method()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before,
        after_in_parent=lambda: _after("after_fork_in_parent"),
        after_in_child=lambda: _after("after_fork_in_child"),
    )


def available_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_forked_processes(work: Callable[[int], None], count: int, processes: int) -> None:
    """Call ``work`` with each number from 0 to ``count - 1``, in at most ``processes`` forked processes.

    ``work`` must not need other threads or a GPU. It is called in this process if one process is enough, and on systems
    other than Linux, where a fork may break the system's own libraries. Each of n processes handles every n-th number
    and then ends, so that no process remains if this process is killed.
    """
    processes = min(processes, count) if sys.platform == "linux" and hasattr(os, "fork") else 1
    if processes <= 1:
        for number in range(count):
            work(number)
        return
    context: Any = multiprocessing.get_context("fork")
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
        ready: Any
        while waiting:
            for ready in wait(waiting):
                try:
                    error = ready.recv()
                except EOFError:
                    raise BackendError(
                        "A process was killed before its work was done",
                        remedy="Check whether memory or the disk is full, and use fewer processes or smaller shards",
                    ) from None
                if error:
                    raise error
                waiting.remove(ready)
    except BaseException:
        for process, _ in running:
            process.kill()
        raise
    finally:
        for process, receiver in running:
            process.join()
            receiver.close()


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


def ends_in_child_process(work: Callable[[], object], *, seconds: float = 5.0, memory: int = 1 << 30) -> bool:
    """Return whether a function ends, by returning or raising, within limits of time and of additional memory (bytes).

    An exception that reports a lack of memory counts as exceeding the limit, which is enforced only on Linux. The
    function is called in a forked process, which starts in milliseconds but has neither other threads nor a GPU. On
    systems without fork, a new interpreter unpickles the function, and the time is measured from then on.
    """
    if sys.platform == "win32":
        return _ends_in_new_interpreter(work, seconds)
    if not hasattr(os, "fork"):
        return _ends_in_new_interpreter(work, seconds)
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


#: The program of a new interpreter: it writes a plus sign once it knows its work. The limit of time holds even if a
#: single instruction takes longer.
_NEW_INTERPRETER = """
import faulthandler, pickle, sys
sys.path = pickle.load(sys.stdin.buffer)
work, seconds = pickle.load(sys.stdin.buffer)
from rerank.io.forks import _work_and_exit
sys.stdout.buffer.write(b"+")
sys.stdout.buffer.flush()
faulthandler.dump_traceback_later(seconds, exit=True)
_work_and_exit(work, 0, 1)
"""
_STARTUP = 120.0  #: Seconds in which a new interpreter must start and import what its work needs.


def _ends_in_new_interpreter(work: Callable[[], object], seconds: float) -> bool:
    try:
        data = pickle.dumps(sys.path) + pickle.dumps((work, seconds))
    except Exception as error:  # noqa: BLE001, since what is pickled, such as a tokenizer, may raise anything
        found = f"because it cannot be pickled ({type(error).__name__}: {error})"
        warnings.warn(f"Work is done without limits of time and memory, {found}", stacklevel=3)
        return True
    command, pipe, null = [sys.executable, "-c", _NEW_INTERPRETER], subprocess.PIPE, subprocess.DEVNULL
    try:
        ended = subprocess.run(command, input=data, stdout=pipe, stderr=null, timeout=_STARTUP + seconds, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ended.stdout in (b"", b"+\0")  # nothing if the interpreter could not start, which is not the work's fault


def _work_and_exit(work: Callable[[], object], memory: int, write_end: int) -> None:
    code = 1
    try:
        if sys.platform == "linux" and memory:
            with contextlib.suppress(ImportError, OSError, ValueError):  # no /proc, or a lower limit is set already
                import resource

                pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001, since the child must never return to the caller's code
        code = int(_is_lack_of_memory(error))
    finally:
        try:
            os.write(write_end, bytes([code]))
        finally:
            os._exit(code)


def _is_lack_of_memory(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, MemoryError) or _is_lack_of_memory(error.__cause__))
