"""A client of one or several servers with the same model: the only limit on requests, and the choice of a server."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

from rerank.backends.base.connection import ServerConnection
from rerank.backends.base.responses import ServerUnavailableError
from rerank.backends.base.routing import RoutedServer, ServerRouter
from rerank.errors import BackendError
from rerank.io.forks import watch_forks
from rerank.tasks import Reply
from rerank.tasks.concurrency import SharedCall

S = TypeVar("S")


class Server(Generic[S]):
    """A server and its description of itself."""

    def __init__(self, connection: ServerConnection, inspect: Callable[[ServerConnection], Awaitable[S]]) -> None:
        self.connection = connection
        self._description: S | None = None

        async def describe() -> S:
            # Set here: a caller that comes before the first waiting caller runs must not inspect the server again.
            self._description = await inspect(connection)
            return self._description

        self._inspection = SharedCall(describe)

    async def describe(self) -> S:
        """Return the description of the server, which the first call requests; concurrent callers wait for it."""
        return await self._inspection() if self._description is None else self._description


class ServerClient(Generic[S]):
    """A client of one or several servers. All its coroutines run on the background loop, so they need no locks.

    `ServerRouter` decides which server receives a request, and limits the requests of all callers in progress on a
    server to ``concurrency``. With several servers, a request that a server does not answer (no connection, a
    timeout, status 429 or 5xx, and so on) is sent to another server at once; while no other server works, it is
    repeated by the rules for one server. The server that did not answer then rests: it receives no requests for a
    second, and twice as long after every failed check (a cheap request), up to half a minute. A reply from the
    server to any request ends its rest period. A request that a server rejects as invalid is not sent to another
    one.
    """

    def __init__(
        self,
        connections: Sequence[ServerConnection],
        inspect: Callable[[ServerConnection], Awaitable[S]],
        *,
        concurrency: int,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.servers = [Server(connection, inspect) for connection in connections]
        self._concurrency, self._sleep = concurrency, sleep
        self._start_routing()
        if len(connections) > 1:
            for position, connection in enumerate(connections):
                connection.has_other_server = partial(self._has_other, position)
        watch_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget the requests that were in progress before the fork, whose replies arrive in the parent process."""
        self._start_routing()

    def _start_routing(self) -> None:
        self.router = ServerRouter([self._concurrency] * len(self.servers))
        self._checks: dict[int, asyncio.Task[None]] = {}
        self._failures: dict[int, ServerUnavailableError] = {}
        self._warned: set[int] = set()

    def _has_other(self, position: int) -> bool:
        return self.router.has_other(position)

    async def exchange(self, group: Hashable, send: Callable[[Server[S]], Awaitable[list[Reply]]]) -> list[Reply]:
        """Call a function with a server that has a free slot, and return its replies to one or more requests.

        ``group`` is equal for requests whose prompts share a prefix. The time of the replies includes retries,
        but not the wait for other requests; it is divided evenly. If no server answers, there is a single
        reply, with the error. A `BackendError` is raised if no server can be reached, or a server refuses all
        requests.
        """
        if len(self.servers) == 1:  # before the limit: all requests wait for the description without holding a slot
            await self.servers[0].describe()
        failures, attempts, seconds = 0, 0, 0.0
        while True:
            slot = await self.router.acquire(group)
            server, started = self.servers[slot.position], time.perf_counter()
            try:
                await server.describe()
                replies = await send(server)
                self._failures.pop(slot.position, None)
                self.router.end_rest(slot)
                seconds = (seconds + time.perf_counter() - started) / max(1, len(replies))
                return [
                    replace(reply, seconds=seconds, retries=reply.retries + (0 if index else attempts))
                    for index, reply in enumerate(replies)
                ]
            except ServerUnavailableError as error:
                if len(self.servers) == 1:
                    raise
                failures, attempts = failures + 1, attempts + error.attempts
                seconds += time.perf_counter() - started
                self.let_rest(slot, error)
                retries = server.connection.retries
                tries = error.tries if retries is None else 1 + retries
                if not self._has_other(slot.position) or failures >= max(tries, len(self.servers)):
                    silent = [failure for failure in self._failures.values() if failure.is_silent]
                    if len(silent) == len(self.servers) and all(server.pause for server in self.router.servers):
                        raise self._unanswered() from error  # no server can be reached
                    return [Reply(finish="error", error=self._unanswered().found)]
            finally:
                self.router.release(slot)

    def _unanswered(self) -> BackendError:
        failures = [f"{self._name(position)} ({self._failures[position].found})" for position in sorted(self._failures)]
        return BackendError(
            f"No server answered: {'; '.join(failures)}",
            remedy="Check the addresses and the network, or start the servers; --resume keeps committed calls",
        )

    def _name(self, position: int) -> str:
        return self.servers[position].connection.address.name

    def let_rest(self, slot: RoutedServer, failure: ServerUnavailableError) -> None:
        """Send no requests to a server, and check it at increasing intervals as long as there are requests."""
        self._failures[slot.position] = failure
        self.router.rest(slot)
        check = self._checks.get(slot.position)
        if check is None or check.done():
            self._checks[slot.position] = asyncio.create_task(self._check_until_up(slot))
        if slot.position not in self._warned and self._has_other(slot.position):
            self._warned.add(slot.position)
            warnings.warn(
                f"The server {self._name(slot.position)} does not answer ({failure.found}); its requests go to the "
                "other servers until it does",
                stacklevel=2,
            )

    async def _check_until_up(self, slot: RoutedServer) -> None:
        while slot.pause:
            await self._sleep(slot.pause)
            # Without requests, the checks of a server that stays down would never end, so the next request tries it.
            if self.router.is_idle or await self.servers[slot.position].connection.is_up():
                self.router.end_rest(slot)
            else:
                self.router.extend_rest(slot)

    async def smallest(self, size: Callable[[S], int]) -> int:
        """Return the smallest context size of the servers, given a function of their descriptions."""
        sizes: dict[str, int] = {}
        for slot, server in zip(self.router.servers, self.servers, strict=True):
            try:
                sizes[self._name(slot.position)] = size(await server.describe())
            except ServerUnavailableError as error:
                if len(self.servers) == 1:
                    raise
                self.let_rest(slot, error)
        if not sizes:
            raise self._unanswered()
        if len(set(sizes.values())) > 1:
            stated = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            warnings.warn(f"The servers have different context sizes ({stated}); the smallest is used", stacklevel=2)
        return min(sizes.values())

    @property
    def is_open(self) -> bool:
        """Whether there may be open connections or checks in progress."""
        return bool(self._checks) or any(server.connection.is_open for server in self.servers)

    async def aclose(self) -> None:
        for position, check in self._checks.items():
            check.cancel()
            self.router.end_rest(self.router.servers[position])
        for server in self.servers:
            await server.connection.aclose()
