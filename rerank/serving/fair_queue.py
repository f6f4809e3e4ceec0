"""Bounded queue that lets the requests of clients proceed in turn, a fixed number at a time."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_NEWEST = 0.1  #: Weight of the newest duration in the moving average.
#: Bounds of the number of seconds after which a client should try again.
_LEAST_WAIT, _MOST_WAIT = 1, 60


class QueueFullError(Exception):
    """Raised for a request that is refused because too many requests are waiting, with the seconds to wait."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many requests are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


class FairQueue:
    """Slots for requests in progress, which clients use in turn, with a bounded number of waiting requests.

    A freed slot goes to the client whose turn it is, and each client's requests are served in order. If the queue is
    full, the newest request of the client with the most waiting requests is refused, so that a client with many
    requests cannot shut out the others. A queue belongs to one event loop.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        self._slots, self._capacity = slots, capacity
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._seconds = 0.0
        self.active = 0

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def slot(self, client: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it for the duration of the ``async with`` block."""
        await self._acquire(client)
        started = time.monotonic()
        try:
            yield
        finally:
            taken = time.monotonic() - started
            self._seconds = taken if not self._seconds else (1 - _NEWEST) * self._seconds + _NEWEST * taken
            self._release()

    async def _acquire(self, client: str) -> None:
        if self.active < self._slots:
            self.active += 1
            return
        if self.waiting >= self._capacity:
            self._refuse_one(client)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release()  # the slot was given just before the client left
            self._forget(client, turn)
            raise

    def _refuse_one(self, client: str) -> None:
        """Refuse the newest request of the client with the most requests, including the new request of ``client``."""
        error = QueueFullError(self._retry_after())
        busiest = max(self._waiting, key=lambda name: len(self._waiting[name]), default=None)
        if busiest is None or len(self._waiting[busiest]) <= len(self._waiting.get(client, ())) + 1:
            raise error
        turn = self._waiting[busiest][-1]
        self._forget(busiest, turn)
        turn.set_exception(error)

    def _retry_after(self) -> int:
        expected = self._seconds * (self.waiting + 1) / self._slots
        return min(_MOST_WAIT, max(_LEAST_WAIT, round(expected)))

    def _forget(self, client: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(client)
        if turns is not None:
            with suppress(ValueError):
                turns.remove(turn)
            if not turns:
                del self._waiting[client]

    def _release(self) -> None:
        """Pass the slot on to the client whose turn it is, or free the slot if no request is waiting."""
        while self._waiting:
            client, turns = next(iter(self._waiting.items()))
            turn = turns.popleft()
            if turns:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            if not turn.done():
                turn.set_result(None)
                return
        self.active -= 1
