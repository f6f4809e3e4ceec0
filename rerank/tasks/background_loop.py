"""One background event loop per process, on which all requests to servers run.

Connections of an HTTP client belong to the event loop that opened them. Threads that call `run_on_task_request_loop`,
and coroutines on other event loops that call `await_on_task_request_loop`, share this loop and thus also the
connections. The loop and its daemon thread are created on first use and end with the process; a forked process creates
its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

from rerank.errors import UsageError

T = TypeVar("T")

#: Seconds to wait at the end of the process for tasks that close connections, and for cancelled tasks.
_CLOSING, _CANCELLING = 0.2, 1.0
#: Seconds between checks whether a wait has been interrupted.
_SIGNALS = 1.0


class BackgroundLoop:
    """An event loop in a daemon thread, on which other threads and event loops run coroutines."""

    def __init__(self) -> None:
        """Start the thread."""
        self._loop = _create_task_request_loop()
        self._thread = threading.Thread(
            target=_serve_task_request_loop, args=(self._loop,), name="rerank-background-loop", daemon=True
        )
        self._thread.start()
        # Finalizers run in reverse order at the end of the process: connections opened on this loop are closed first.
        weakref.finalize(self, _stop_task_request_loop, self._loop, self._thread, os.getpid())

    def is_running_here(self) -> bool:
        """Return whether the caller runs on this loop's thread."""
        return threading.current_thread() is self._thread

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine and return its future; cancelling the future cancels the coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for its result.

        If the wait is interrupted (KeyboardInterrupt), the coroutine is cancelled and has ended when this method
        returns.
        """
        if self.is_running_here():
            coroutine.close()
            raise UsageError(
                "A blocking call on the background event loop would wait for itself",
                expected="a call from another thread",
                remedy="Await the coroutine instead, such as agenerate in place of generate",
            )
        call = _BlockingCall(coroutine, self._loop)
        try:
            self._loop.call_soon_threadsafe(call.start)
            call.wait()
        except BaseException:  # the wait was interrupted
            self._loop.call_soon_threadsafe(call.cancel)
            call.wait()
            raise
        return call.result()


class _BlockingCall(Generic[T]):
    """A coroutine that runs on a loop while another thread waits for it.

    The wait uses a bare lock, which can be interrupted at any moment. Futures and events are built on
    `threading.Condition`, which may remain locked after an interruption; the loop would then block when the coroutine
    ends. The wait has a timeout and is repeated, because a signal that arrives just before a wait is handled only after
    the wait.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> None:
        self._has_ended = False
        self._coroutine, self._loop = coroutine, loop
        self._task: asyncio.Task[T] | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def start(self) -> None:
        """Start the coroutine; must be called on the loop."""
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Cancel the coroutine, whether or not `start` has been called; must be called on the loop."""
        if self._task is None:
            self._coroutine.close()
            self._end()
        else:
            self._task.cancel()

    def _end(self, _: object = None) -> None:
        self._has_ended = True
        self._lock.release()

    def wait(self) -> None:
        """Wait for the end of the coroutine."""
        while not self._has_ended:
            self._lock.acquire(timeout=_SIGNALS)

    def result(self) -> T:
        """Return the result of the coroutine that has ended, or raise its exception."""
        if self._task is None or self._task.cancelled():
            raise CancelledError
        return self._task.result()


def submit_to_task_request_loop(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Start a coroutine on the background loop and return its future; cancelling the future cancels the coroutine."""
    return get_task_request_loop().submit(coroutine)


def run_on_task_request_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the background loop and wait for its result, even if an event loop runs in this thread.

    If the wait is interrupted (KeyboardInterrupt), the coroutine is cancelled and has ended when this function returns.
    """
    return get_task_request_loop().run(coroutine)


async def await_on_task_request_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that runs on the background loop; the caller may run on any event loop.

    Cancelling the caller cancels the coroutine.
    """
    background = get_task_request_loop()
    if background.is_running_here():
        return await coroutine
    return await asyncio.wrap_future(background.submit(coroutine))


def get_task_request_loop() -> BackgroundLoop:
    """Return the background loop of this process; the first call creates it."""
    global _background
    with _lock:
        if _background is None:
            _background = BackgroundLoop()
        return _background


_background: BackgroundLoop | None = None
_lock = threading.Lock()
#: Loops of parent processes. File descriptors are shared with the parents, so the loops must not run or be collected.
_inherited: list[BackgroundLoop] = []


def _forget_task_request_loop() -> None:
    """Reset the event loop and the lock in a forked process.

    In the forked process, no thread runs the loop, and the lock may never be released.
    """
    global _background, _lock
    if _background is not None:
        _inherited.append(_background)
    _background, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_task_request_loop)


def _create_task_request_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's if it is installed, since it needs less time per request."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _serve_task_request_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _stop_task_request_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    """End the loop at the end of the process that created it."""
    if os.getpid() != pid or not thread.is_alive():
        return
    asyncio.run_coroutine_threadsafe(_end_task_request_loop(), loop)
    thread.join(2 * (_CLOSING + _CANCELLING))


async def _end_task_request_loop() -> None:
    """Let tasks that close connections finish, cancel all others, then stop the loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    try:
        if tasks:
            _, running = await asyncio.wait(tasks, timeout=_CLOSING)
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running, timeout=_CANCELLING)
    finally:
        asyncio.get_running_loop().stop()
