"""Which of several servers answers a request: groups of requests that share a prefix, load, and rest after failures.

Nothing here sends or waits. All calls come from one event loop, so no lock is needed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from rerank.backends.base.request_retries import FIRST_WAIT, LONGEST_WAIT

#: Number of groups whose server is remembered.
_GROUPS = 4096


@dataclass(slots=True, eq=False)
class RoutedServer:
    """What is known about one of several servers.

    Attributes:
        position: Its position among the servers.
        slots: Maximum number of simultaneous requests.
        in_progress: Number of requests that it is answering.
        pause: Seconds of its rest before the next check; 0 if it works.
        waiting: The requests that wait for it, as futures of the server that takes them.
    """

    position: int
    slots: int
    in_progress: int = 0
    pause: float = 0.0
    waiting: deque[asyncio.Future[RoutedServer]] = field(default_factory=deque)

    @property
    def load(self) -> float:
        """Requests in progress and waiting, per slot."""
        return (self.in_progress + len(self.waiting)) / self.slots


class ServerRouter:
    """Assigns requests to servers.

    - The requests of a group share a prefix, which its server has in its cache. A group is assigned to the server with
      the least load when its first request arrives, and keeps this server as long as it is one of the last groups that
      sent a request (4,096 are remembered) and the server is not resting.
    - A request that finds no slot at the server of its group waits. It is taken by that server or by any other that
      has a free slot and no waiting requests of its own, whichever is first: an idle server costs more than a prefix.
    - A resting server gets no requests, except if all are resting; then all get requests.

    Args:
        slots: Maximum number of simultaneous requests of each server.
    """

    def __init__(self, slots: Sequence[int]) -> None:
        """Start without requests; all servers count as working."""
        self.servers = [RoutedServer(position, number) for position, number in enumerate(slots)]
        self._homes: OrderedDict[Hashable, RoutedServer] = OrderedDict()

    @property
    def usable(self) -> list[RoutedServer]:
        """The servers that get requests."""
        return [server for server in self.servers if not server.pause] or self.servers

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress or waits."""
        return not any(server.load for server in self.servers)

    def has_other(self, position: int) -> bool:
        """Return whether a server other than this one works."""
        return any(not server.pause for server in self.servers if server.position != position)

    async def acquire(self, group: Hashable) -> RoutedServer:
        """Wait for a free slot and return its server; `release` must follow."""
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
        """Free a slot."""
        server.in_progress -= 1
        self._assign()

    def rest(self, server: RoutedServer) -> None:
        """Let a server rest after a failure, and give the requests that wait for it to others.

        If it is resting already, nothing changes: the failure is that of a request that began earlier.
        """
        if not server.pause:
            server.pause = FIRST_WAIT
            waiting, server.waiting = server.waiting, deque()
            for slot in waiting:
                self._least_loaded().waiting.append(slot)
            self._assign()

    def extend_rest(self, server: RoutedServer) -> None:
        """Double the pause of a server that has failed its check, up to the longest wait between attempts."""
        server.pause = min(LONGEST_WAIT, 2 * server.pause)

    def end_rest(self, server: RoutedServer) -> None:
        """Give requests to a server again."""
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
        """Give free slots to waiting requests: first to those of the server, then to those of the longest queue."""
        for server in self.usable:
            while server.in_progress < server.slots and self._start_next(server, server):
                pass
        for server in self.usable:
            while server.in_progress < server.slots and (longest := self._longest_queue()).waiting:
                self._start_next(server, longest)

    def _longest_queue(self) -> RoutedServer:
        return max(self.servers, key=lambda server: len(server.waiting))

    @staticmethod
    def _start_next(server: RoutedServer, queue: RoutedServer) -> bool:
        """Give a slot of ``server`` to the first request in the queue of another; return whether there was one."""
        while queue.waiting:
            slot = queue.waiting.popleft()
            if not slot.done():  # else its caller was cancelled
                server.in_progress += 1
                slot.set_result(server)
                return True
        return False
