"""Logging of calls to models in other processes: one process owns the call log, and the others send it their calls.

A `CallDesk` in the process that owns the run folder applies the log, the shared cache and the token cap. In a process
with a model, `log_calls_at_desk` returns a backend that forms the same batches as `LoggingBackend`. Before each batch,
it asks the desk which requests the model must answer; after the batch, it sends the replies to the desk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rerank.store.logging_backend import AsyncLoggingBackend, LoggingBackend, NoLog
from rerank.tasks import AsyncBackend, Backend, CancelledAfterReplyError, Reply, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunCalls:
    """The result of `CallDesk.begin` for a batch of requests.

    Attributes:
        replies: Mapping from digest to reply, for requests that the model must not answer, because the log or the cache
            contains a reply or because they are refused.
        missing: Digests of the requests that the model must answer.
    """

    replies: Mapping[str, Reply]
    missing: tuple[str, ...]


class CallDesk:
    """A desk, in the process that owns the call log, logs the calls of other processes; it is not thread-safe.

    Args:
        backend: The backend with the log, the cache and the token cap of the run; its model is not called.
    """

    def __init__(self, backend: LoggingBackend) -> None:
        """Start without calls in flight."""
        self._backend = backend
        self._in_flight: dict[int, dict[str, Request]] = {}

    def begin(self, owner: int, requests: Mapping[str, Request], *, refusal: str = "") -> BegunCalls | None:
        """Return the recorded replies to a batch, and register the other requests as calls in flight.

        Args:
            owner: Number of the work item (such as a block of lists) to which the batch belongs.
            requests: Mapping from digest to request.
            refusal: If not empty, requests without a recorded reply are answered by an error with this text.

        Returns:
            The recorded replies and the missing digests. None if the requests may fit below the token cap once calls in
            flight have ended; the caller then has to call `begin` again after `keep`.
        """
        backend, in_flight = self._backend, self._in_flight.setdefault(owner, {})
        replies = backend.look_up(requests)
        missing = {digest: request for digest, request in requests.items() if digest not in replies}
        # A lost worker's message may be answered after the work was given to another: tokens are reserved only once.
        new = {digest: request for digest, request in missing.items() if digest not in in_flight}
        if not refusal and backend.must_wait(new.values()):
            return None
        error = refusal or (backend.over_cap().error if len(backend.affordable(new)) < len(new) else "")
        if error:  # all or nothing, as in one process
            replies |= {digest: Reply(finish="error", error=error) for digest in missing}
            missing = new = {}
        for reply in replies.values():
            backend.on_reply(reply)
        backend.reserve(new.values())
        in_flight.update(new)
        return BegunCalls(replies=replies, missing=tuple(missing))

    def keep(self, arrived: Sequence[tuple[int, Mapping[str, Reply]]]) -> None:
        """Commit replies to calls in flight, all in one transaction; replies to other calls are ignored.

        Args:
            arrived: Pairs of the number of a work item and a mapping from digest to reply, in the order of arrival. If
                there are two replies to the same request, the first is committed.
        """
        calls: list[tuple[str, Request, Reply]] = []
        for owner, replies in arrived:
            in_flight = self._in_flight.get(owner, {})
            expected = {digest: in_flight.pop(digest) for digest in replies if digest in in_flight}
            self._backend.release(expected.values())
            calls += [(digest, request, replies[digest]) for digest, request in expected.items()]
        first_come = calls[::-1]  # reversed, since a dictionary keeps the last value of a key
        self._backend.keep({d: request for d, request, _ in first_come}, {d: reply for d, _, reply in first_come})
        for _, _, reply in calls:
            self._backend.on_reply(reply)

    def release(self, owner: int) -> int:
        """Forget the calls in flight of a work item whose worker is lost, and return their number."""
        requests = self._in_flight.pop(owner, {})
        self._backend.release(requests.values())
        return len(requests)

    def has_calls_in_flight(self) -> bool:
        """Return whether there are calls whose replies have not arrived."""
        return any(self._in_flight.values())


class CallDeskClient(Protocol):
    """A connection from a process with a model to the `CallDesk` of the process that owns the call log."""

    def begin(self, requests: Mapping[str, Request]) -> BegunCalls:
        """Send a batch to the desk, and wait for the result of `CallDesk.begin`."""

    def keep(self, replies: Mapping[str, Reply]) -> None:
        """Send new replies to the desk, and wait until they are committed."""

    async def abegin(self, requests: Mapping[str, Request]) -> BegunCalls:
        """Do the same as `begin` without blocking the event loop."""

    async def akeep(self, replies: Mapping[str, Reply]) -> None:
        """Do the same as `keep` without blocking the event loop."""


@dataclass(kw_only=True)
class _DeskBackend(LoggingBackend):
    """A `LoggingBackend` for a process with a model, which sends its calls to the process that owns the log."""

    log: NoLog = field(default_factory=NoLog)
    desk: CallDeskClient

    def _answer(self, batch: Mapping[str, Request]) -> dict[str, Reply]:
        begun = self.desk.begin(batch)
        replies = dict(begun.replies)
        if begun.missing:
            generated = self.backend.generate([batch[digest] for digest in begun.missing])
            new = dict(zip(begun.missing, generated, strict=True))
            self.desk.keep(new)
            replies |= new
        return replies


@dataclass(kw_only=True)
class _AsyncDeskBackend(AsyncLoggingBackend):
    """An `AsyncLoggingBackend` that sends its calls to the process that owns the log."""

    log: NoLog = field(default_factory=NoLog)
    desk: CallDeskClient

    async def agenerate(self, request: Request) -> Reply:
        """Return the reply to one request; a request that is already in flight is not sent a second time."""
        digest = request.digest(self.backend.identity)
        while digest in self._in_flight:
            await self._in_flight[digest].wait()
        self._in_flight[digest] = asyncio.Event()
        try:
            begun = await self.desk.abegin({digest: request})
            if not begun.missing:
                return begun.replies[digest]
            reply = await self.backend.agenerate(request)
            await self.desk.akeep({digest: reply})
        except CancelledAfterReplyError as cancelled:
            await self.desk.akeep({digest: cancelled.reply})
            raise
        finally:
            self._in_flight.pop(digest).set()
        return reply


def log_calls_at_desk(backend: Backend, desk: CallDeskClient, *, batch_characters: int | None) -> LoggingBackend:
    """Wrap a backend so that its calls are logged by another process.

    Args:
        backend: The backend. If it is asynchronous, the returned backend is asynchronous, too.
        desk: Connection to the desk in the process that owns the log.
        batch_characters: Limit of the batch size, as in `LoggingBackend`.
    """
    if isinstance(backend, AsyncBackend):
        return _AsyncDeskBackend(backend=backend, desk=desk, batch_characters=batch_characters)
    return _DeskBackend(backend=backend, desk=desk, batch_characters=batch_characters)
