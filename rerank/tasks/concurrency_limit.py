"""A limit on concurrent coroutines, and a coroutine that concurrent callers share, for the background loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class ConcurrencyLimit:
    """A context manager that at most ``limit`` coroutines can enter at the same time; the others wait in order.

    Unlike `asyncio.Semaphore`, it can be created outside of an event loop, and all slots are free again on the loop of
    a forked process.

    Args:
        limit: Maximum number of coroutines.
    """

    def __init__(self, limit: int) -> None:
        """Store the limit."""
        self._limit = limit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._semaphore = asyncio.Semaphore(limit)

    def __reduce__(self) -> tuple[type[ConcurrencyLimit], tuple[int]]:
        """Pickle the limit without the coroutines of this process."""
        return ConcurrencyLimit, (self._limit,)

    async def __aenter__(self) -> None:
        """Wait for a free slot."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._semaphore = loop, asyncio.Semaphore(self._limit)
        await self._semaphore.acquire()

    async def __aexit__(self, *exc: object) -> None:
        """Free the slot."""
        self._semaphore.release()


class SharedCall(Generic[T]):
    """A coroutine that runs once for all callers that wait for it at the same time.

    The coroutine is cancelled when all waiting callers have been cancelled. A later call creates and runs a new
    coroutine.

    Args:
        make: Function that creates the coroutine.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]]) -> None:
        """Store the function that creates the coroutine."""
        self._make = make
        self._task: asyncio.Task[T] | None = None
        self._waiting = 0

    async def __call__(self) -> T:
        """Return the result of the coroutine, or raise its exception."""
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
