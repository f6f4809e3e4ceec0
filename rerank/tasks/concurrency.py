"""Requests to servers: one background event loop per process, limits, and many requests answered concurrently.

Connections of an HTTP client belong to the event loop that opened them. Threads that call `run_on_loop`, and coroutines
on other event loops that call `await_on_loop`, share the background loop and so the connections. The loop and its
daemon thread are created on first use and end with the process; a forked process creates its own.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

from rerank.errors import BackendError, UsageError
from rerank.tasks.requests import AsyncBackend, Backend, Reply, Request

T = TypeVar("T")

#: Seconds to wait at the end of the process for tasks that close connections, and for cancelled tasks.
_CLOSING, _CANCELLING = 0.2, 1.0
#: Seconds between checks whether a wait has been interrupted.
_SIGNALS = 1.0


class BackgroundLoop:
    """An event loop in a daemon thread, on which other threads and event loops run coroutines."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name="rerank-background-loop", daemon=True)
        self._thread.start()
        # Finalizers run in reverse order at the end of the process: connections opened on this loop are closed first.
        weakref.finalize(self, _stop, self._loop, self._thread, os.getpid())

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


def submit_to_loop(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Start a coroutine on the background loop and return its future; cancelling the future cancels the coroutine."""
    return get_loop().submit(coroutine)


def run_on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Do the same as `BackgroundLoop.run` on the background loop, even if an event loop runs in this thread."""
    return get_loop().run(coroutine)


async def await_on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that runs on the background loop, from any event loop; cancelling the caller cancels it."""
    background = get_loop()
    if background.is_running_here():
        return await coroutine
    return await asyncio.wrap_future(background.submit(coroutine))


def get_loop() -> BackgroundLoop:
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


def _forget_loop() -> None:
    """Reset the loop and the lock in a forked process: no thread runs the loop, and the lock may never be released."""
    global _background, _lock
    if _background is not None:
        _inherited.append(_background)
    _background, _lock = None, threading.Lock()


if sys.platform != "win32" and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loop)


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop: uvloop's if it is installed, since it needs less time per request."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    """End the loop at the end of the process that created it."""
    if os.getpid() != pid or not thread.is_alive():
        return
    asyncio.run_coroutine_threadsafe(_end_all(), loop)
    thread.join(2 * (_CLOSING + _CANCELLING))


async def _end_all() -> None:
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


class ConcurrencyLimit:
    """A context manager that at most ``limit`` coroutines can enter at the same time; the others wait in order.

    Unlike `asyncio.Semaphore`, it can be created outside of an event loop, and all slots are free again on the loop of
    a forked process.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._semaphore = asyncio.Semaphore(limit)

    def __reduce__(self) -> tuple[type[ConcurrencyLimit], tuple[int]]:
        return ConcurrencyLimit, (self._limit,)

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._semaphore = loop, asyncio.Semaphore(self._limit)
        await self._semaphore.acquire()

    async def __aexit__(self, *exc: object) -> None:
        self._semaphore.release()


class SharedCall(Generic[T]):
    """A coroutine that runs once for all callers that wait for it at the same time.

    The coroutine is cancelled when all waiting callers have been cancelled. A later call creates and runs a new
    coroutine.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._make = make
        self._task: asyncio.Task[T] | None = None
        self._waiting = 0

    async def __call__(self) -> T:
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task, self._waiting = loop.create_task(self._make()), 0
        task = self._task
        self._waiting += 1
        try:
            return await asyncio.shield(task)
        finally:
            if task is self._task:
                self._waiting -= 1
                if not self._waiting and not task.done():  # all callers have been cancelled
                    self._task = None
                    task.cancel()


async def answer_concurrently(
    answer: Callable[[T], Awaitable[Reply]], requests: Sequence[T], *, limit: int
) -> list[Reply]:
    """Return the replies to all requests (or other values that ``answer`` accepts in their place), in order.

    An error that concerns all requests is raised only if no request was answered, since existing replies may have
    cost money. Otherwise, each request that failed with such an error gets a `Reply` with the error message.
    """
    slots = asyncio.Semaphore(limit)
    fatal: list[BackendError] = []
    has_reply = False

    async def answer_in_turn(request: T) -> Reply:
        nonlocal has_reply
        async with slots:  # after a fatal error, no further request is sent unless some request was answered
            if fatal and not has_reply:
                return Reply(finish="error", error=str(fatal[0]))
            try:
                reply = await answer(request)
            except BackendError as error:
                fatal.append(error)
                return Reply(finish="error", error=str(error))
            has_reply = has_reply or reply.finish != "error"
            return reply

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer_in_turn(request)) for request in requests]
    except ExceptionGroup as failures:  # the first exception has cancelled the other tasks
        raise failures.exceptions[0] from None
    if fatal and not has_reply:
        raise fatal[0]
    return [task.result() for task in tasks]


def iterate_replies(backend: Backend, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    """Yield the position and the reply of each request as soon as the reply arrives.

    A backend that waits for a network answers the requests concurrently, so a slow reply does not delay the others. Any
    other backend answers all requests in one call. If the iterator is closed, the requests in flight are cancelled.
    """
    if not isinstance(backend, AsyncBackend):
        yield from enumerate(backend.generate(requests))
        return
    arrived: queue.SimpleQueue[tuple[int, Reply] | None] = queue.SimpleQueue()

    async def answer(position: int) -> Reply:
        reply = await backend.agenerate(requests[position])
        arrived.put((position, reply))
        return reply

    positions = range(len(requests))
    future = submit_to_loop(answer_concurrently(answer, positions, limit=backend.batch_size))
    future.add_done_callback(lambda _: arrived.put(None))
    yielded: set[int] = set()
    try:
        while (item := arrived.get()) is not None:
            yielded.add(item[0])
            yield item
    finally:
        future.cancel()
    replies = future.result()
    yield from ((position, replies[position]) for position in positions if position not in yielded)
