"""A client of one or several servers with the same model: the only limit on requests, and the choice of a server."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from rerank.backends.base.connection import ServerConnection
from rerank.backends.base.responses import FIRST_WAIT, LONGEST_WAIT, ServerUnavailableError
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
        if (check := self._checks.get(slot.position)) is None or check.done():
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


# The choice of a server, by shared prefixes, load, and recent failures. Nothing here sends requests.

#: Number of groups whose server is remembered.
_GROUPS = 4096


@dataclass(slots=True, eq=False)
class RoutedServer:
    """The load of one of several servers, and whether it is resting after a failure."""

    position: int  # in the list of servers, from 0
    slots: int  # maximum number of simultaneous requests
    in_progress: int = 0
    #: Seconds until the next check of a resting server; 0 if the server is not resting.
    pause: float = 0.0
    #: The requests in the queue of this server. Each request is represented by a future, whose result is the server
    #: that will process the request.
    waiting: deque[asyncio.Future[RoutedServer]] = field(default_factory=deque)

    @property
    def load(self) -> float:
        return (self.in_progress + len(self.waiting)) / self.slots


class ServerRouter:
    """A router that assigns requests to servers.

    - Requests of the same group, such as those for one query, share a prompt prefix, which their server has in its
      prefix cache. When the first request of a group arrives, the group is assigned to the server with the least load.
      The group keeps this server as long as the server is not resting and the group is among the 4,096 groups that have
      sent a request most recently.
    - If the group's server has no free slot, the request waits. It is sent to that server or to any other server that
      has a free slot and no waiting requests of its own, whichever is first: an idle server costs more than computing
      a prefix again.
    - A resting server receives no requests, unless all servers are resting; then all of them receive requests.
    """

    def __init__(self, slots: Sequence[int]) -> None:
        self.servers = [RoutedServer(position, number) for position, number in enumerate(slots)]
        self._homes: OrderedDict[Hashable, RoutedServer] = OrderedDict()

    @property
    def usable(self) -> list[RoutedServer]:
        """The servers that are not resting, or all servers if all are resting."""
        return [server for server in self.servers if not server.pause] or self.servers

    @property
    def is_idle(self) -> bool:
        return not any(server.load for server in self.servers)

    def has_other(self, position: int) -> bool:
        return any(not server.pause for server in self.servers if server.position != position)

    async def acquire(self, group: Hashable) -> RoutedServer:
        """Wait for a free slot and return the server that has it. The caller must call `release` after the request."""
        slot: asyncio.Future[RoutedServer] = asyncio.get_running_loop().create_future()
        self._find_home(group).waiting.append(slot)
        self._assign()
        try:
            return await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled():  # assigned before the cancellation arrived
                self.release(slot.result())
            raise

    def release(self, server: RoutedServer) -> None:
        server.in_progress -= 1
        self._assign()

    def rest(self, server: RoutedServer) -> None:
        """Let a server rest after a failure, and move its waiting requests to other servers."""
        if not server.pause:  # otherwise the failed request began before the rest
            server.pause = FIRST_WAIT
            waiting, server.waiting = server.waiting, deque()
            for slot in waiting:
                self._least_loaded().waiting.append(slot)
            self._assign()

    def extend_rest(self, server: RoutedServer) -> None:
        server.pause = min(LONGEST_WAIT, 2 * server.pause)

    def end_rest(self, server: RoutedServer) -> None:
        if server.pause:
            server.pause = 0.0
            self._assign()

    def _find_home(self, group: Hashable) -> RoutedServer:
        if (home := self._homes.get(group)) is None or home not in self.usable:
            home = self._homes[group] = self._least_loaded()
        self._homes.move_to_end(group)
        if len(self._homes) > _GROUPS:
            self._homes.popitem(last=False)
        return home

    def _least_loaded(self) -> RoutedServer:
        return min(self.usable, key=lambda server: server.load)

    def _assign(self) -> None:
        """Assign free slots to waiting requests: each server serves its own queue, then the longest queue."""
        for server in self.usable:
            while server.in_progress < server.slots and self._start_next(server, server):
                pass
        for server in self.usable:
            while server.in_progress < server.slots and any(other.waiting for other in self.servers):
                self._start_next(server, max(self.servers, key=lambda other: len(other.waiting)))

    @staticmethod
    def _start_next(server: RoutedServer, queue: RoutedServer) -> bool:
        """Give a slot of ``server`` to the first request that waits for ``queue``; return False if there is none."""
        while queue.waiting:
            slot = queue.waiting.popleft()
            if not slot.done():  # otherwise its caller was cancelled
                server.in_progress += 1
                slot.set_result(server)
                return True
        return False
