"""Choose one of several servers for each request, by shared prefixes, load, and recent failures.

Nothing here sends requests. All calls come from one event loop, so no lock is needed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from rerank.backends.base.responses import FIRST_WAIT, LONGEST_WAIT

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
        """Free a slot of a server and assign waiting requests."""
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
        home = self._homes.get(group)
        if home is None or home not in self.usable:
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
