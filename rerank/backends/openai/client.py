"""A client for one model on a server, shared by all threads and event loops of a process. Imports httpx2."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from rerank.backends.base.server_connection import ServerConnection
from rerank.backends.openai.dialect import Dialect
from rerank.backends.openai.sending import ServerSession
from rerank.backends.openai.server import inspect_server
from rerank.errors import UsageError
from rerank.tasks import Reply, Request
from rerank.tasks.concurrency_limit import ConcurrencyLimit, SharedCall


@dataclass(kw_only=True)
class ServerClient:
    """A client that sends requests to one model. All its coroutines run on one event loop, so they need no locks.

    Attributes:
        connection: The connections to the server.
        model: Name of the model on the server.
        concurrency: Maximum number of simultaneous requests, of all callers together.
        context_size: The context size that the user set; None to use the server's.
        session: The state of the server, as found by the inspection; None before the inspection.
    """

    connection: ServerConnection
    model: str
    concurrency: int
    context_size: int | None = None
    session: ServerSession | None = None
    _limit: ConcurrencyLimit = field(init=False, repr=False)
    _inspection: SharedCall[ServerSession] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Create the limit on simultaneous requests and the shared call that inspects the server."""
        self._limit = ConcurrencyLimit(self.concurrency)
        self._inspection = SharedCall(self._inspect)

    async def inspect(self) -> ServerSession:
        """Return the state of the server. The first call inspects it; concurrent callers wait for it."""
        return self.session or await self._inspection()

    async def _inspect(self) -> ServerSession:
        server = await inspect_server(self.connection, self.model)
        available = server.context_size
        if self.context_size and available and self.context_size > available:
            raise UsageError(
                f"--context-size is {self.context_size}",
                expected=f"at most {available}, the context size of {self.connection.address.url}",
            )
        self.session = ServerSession(server=server, dialect=Dialect(kind=server.kind, model=self.model))
        return self.session

    async def answer(self, request: Request) -> Reply:
        """Return the reply to one request. The reply's time includes retries, but not the wait for other requests."""
        session = await self.inspect()  # before the limit: all requests wait for it without holding a slot
        async with self._limit:
            started = time.perf_counter()
            reply = await session.ask(self.connection, request)
            return replace(reply, seconds=time.perf_counter() - started)
