"""Backends that wrap another backend, return logged replies if there are any, and commit all new replies to the log.

A run that is killed loses at most the batch in progress or, with a server, the requests in flight. To resume a run, the
same requests are sent again; for requests that already have a reply, the logged reply is returned.

If models run in other processes, a `CallDesk` in the process that owns the run folder applies the log, the shared cache
and the token cap. In a process with a model, `log_calls_at_desk` returns a backend that forms the same batches. Before
each batch, it asks the desk which requests the model must answer; after the batch, it sends the replies to the desk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from rerank.io.forks import watch_forks
from rerank.store.call_log import CallLog, RowSet
from rerank.tasks import AsyncBackend, Backend, CancelledAfterReplyError, Reply, Request
from rerank.tasks.backends import BackendWrapper, traits
from rerank.tasks.concurrency import answer_concurrently, run_on_loop
from rerank.tasks.requests import Usage


@dataclass(kw_only=True)
class LoggingBackend(BackendWrapper):
    """A backend that returns logged replies, and commits new replies of the wrapped backend batch by batch.

    Batches are formed from all requests before the log is read, with the longest prompts first. A resumed run therefore
    forms the same batches as an uninterrupted run, and results that depend on the padding of a batch cannot differ.
    Failed calls (``finish == "error"``) are not committed, so they are repeated when the run is resumed.
    """

    backend: Backend  # the wrapped backend, which answers the requests that are not in the log
    log: CallLog | NoLog
    #: A call log that all runs share; replies are read from this cache and added to it. None for no cache.
    cache: CallLog | None = None
    #: Cap on the sum of prompt and completion tokens. The replies to the first batch that could exceed the cap, and to
    #: all later batches, are errors. None for no cap.
    max_total_tokens: int | None = None
    #: Maximum total number of characters of the prompts in a batch; None for no maximum.
    batch_characters: int | None = None
    #: Function that is called with each reply, once per request, for progress bars.
    on_reply: Callable[[Reply], None] = field(default=lambda reply: None)
    usage: Usage = field(default_factory=Usage)  # the usage so far, such as numbers of calls and tokens
    used: RowSet = field(default_factory=RowSet)  # row numbers of the log whose replies were used or added
    _capped: bool = False
    _reserved: int = 0  # maximum number of tokens of the requests in flight, if there is a cap

    def __reduce__(self) -> tuple[Any, ...]:
        copied = ("backend", "log", "cache", "max_total_tokens", "batch_characters", "usage")
        return partial(type(self), **{name: getattr(self, name) for name in copied}), ()

    def close(self) -> None:
        """Close the log and the cache, and the connections of the wrapped backend; a later request opens them again."""
        traits(self.backend).close()
        self.log.close()
        if self.cache is not None:
            self.cache.close()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        identity = self.backend.identity
        digests = [request.digest(identity) for request in requests]
        lengths = [sum(len(message.content) for message in request.prompt) for request in requests]
        longest_first = sorted(range(len(requests)), key=lambda i: (-lengths[i], i))
        replies: dict[str, Reply] = {}
        for indices in self._batches(longest_first, lengths):
            batch = {digests[i]: requests[i] for i in indices}
            replies |= self._answer({d: r for d, r in batch.items() if d not in replies})
            for i in indices:
                self.on_reply(replies[digests[i]])
        return [replies[digest] for digest in digests]

    def _batches(self, order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        for index in order:
            too_long = self.batch_characters is not None and (
                sum(lengths[i] for i in batch) + lengths[index] > self.batch_characters
            )
            if batch and (too_long or len(batch) == self.batch_size):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _answer(self, batch: Mapping[str, Request]) -> dict[str, Reply]:
        reused = self.look_up(batch)
        missing = {digest: request for digest, request in batch.items() if digest not in reused}
        affordable = self.affordable(missing)
        if len(affordable) < len(missing):  # send all or nothing, so that a resumed run forms the same batch
            affordable = {}
        replies = self.backend.generate(list(affordable.values())) if affordable else []
        generated = dict(zip(affordable, replies, strict=True))
        self.keep(affordable, generated)
        return {digest: reused.get(digest) or generated.get(digest) or self.over_cap() for digest in batch}

    def unanswered(self, requests: Mapping[str, Request]) -> dict[str, Request]:
        answered = self.look_up(requests)
        return {digest: request for digest, request in requests.items() if digest not in answered}

    def look_up(self, requests: Mapping[str, Request]) -> dict[str, Reply]:
        """Return the replies that are in the log or in the cache; replies from the cache are copied to the log."""
        logged = self.log.rows(list(requests))
        for row, reply in logged.values():
            self._count(row, reply, reused=True)
        reused = {digest: reply for digest, (_, reply) in logged.items()}
        missing = {digest: request for digest, request in requests.items() if digest not in reused}
        if self.cache is not None and missing and (cached := self.cache.get(list(missing))):
            self._commit(missing, cached, reused=True)
            reused |= cached
        return {digest: replace(reply, reused=True) for digest, reply in reused.items()}

    def keep(self, requests: Mapping[str, Request], generated: Mapping[str, Reply]) -> None:
        if generated:
            self._commit(requests, generated, reused=False)
            if self.cache is not None:  # replies that could not be parsed are omitted, so that other runs ask again
                readable = {digest: reply for digest, reply in generated.items() if not reply.error}
                self.cache.put(self._committable(requests, readable), self.backend.identity.get("model", ""))

    def _commit(self, requests: Mapping[str, Request], replies: Mapping[str, Reply], *, reused: bool) -> None:
        calls = self._committable(requests, replies)
        rows = self.log.put(calls, self.backend.identity.get("model", ""))
        for row, (_, _, reply) in zip(rows, calls, strict=True):
            self._count(row, reply, reused=reused)

    def _count(self, row: int | None, reply: Reply, *, reused: bool) -> None:
        """Add a reply to the usage: only once if it has a row in the log; each time if it has none."""
        if row is None or self.used.add(row):
            self.usage.add(reply, reused=reused)

    def affordable(self, requests: Mapping[str, Request]) -> Mapping[str, Request]:
        """Return the requests before the first that could exceed the token cap, assuming replies of maximum length."""
        if self.max_total_tokens is None:
            return requests
        total = self._spent + self._reserved
        affordable: dict[str, Request] = {}
        for digest, request in requests.items():
            total += self._most_tokens(request)
            self._capped = self._capped or total > self.max_total_tokens
            if self._capped:
                break
            affordable[digest] = request
        return affordable

    def must_wait(self, requests: Iterable[Request]) -> bool:
        """Return whether requests fit below the token cap only if requests in flight use fewer tokens than reserved.

        Replies are usually shorter than reserved, so there may be room once they have arrived.
        """
        if self.max_total_tokens is None or self._capped or not self._reserved:
            return False
        return self._spent + self._reserved + sum(map(self._most_tokens, requests)) > self.max_total_tokens

    def reserve(self, requests: Iterable[Request]) -> None:
        if self.max_total_tokens is not None:
            self._reserved += sum(map(self._most_tokens, requests))

    def release(self, requests: Iterable[Request]) -> None:
        """Release the tokens of requests whose replies are counted instead, or which have failed."""
        if self.max_total_tokens is not None:
            self._reserved -= sum(map(self._most_tokens, requests))

    @property
    def _spent(self) -> int:
        return self.usage.tokens_in + self.usage.tokens_out

    def _most_tokens(self, request: Request) -> int:
        sampling = request.sampling
        return self.tokens.count(request.prompt) + sampling.max_tokens + sampling.thinking

    def over_cap(self) -> Reply:
        """Return the error that is the reply to a request that could exceed the token cap."""
        error = (
            f"--max-total-tokens {self.max_total_tokens} (in Python max_total_tokens) could be exceeded "
            f"({self._spent} tokens used); increase this cap, and pass --resume to continue a run"
        )
        return Reply(finish="error", error=error)

    @staticmethod
    def _committable(requests: Mapping[str, Request], replies: Mapping[str, Reply]) -> list[tuple[str, Request, Reply]]:
        return [(digest, requests[digest], reply) for digest, reply in replies.items() if reply.finish != "error"]


@dataclass(slots=True)
class _ArrivedReplies:
    """Replies that will be committed together."""

    #: Future for which the coroutines of these calls wait; done when the replies are committed.
    committed: asyncio.Future[None]
    requests: dict[str, Request] = field(default_factory=dict)
    replies: dict[str, Reply] = field(default_factory=dict)


@dataclass(kw_only=True)
class AsyncLoggingBackend(LoggingBackend):
    """A `LoggingBackend` for an asynchronous backend, such as a server; every reply is committed as soon as it arrives.

    Coroutines run on the background event loop. A request that is already in flight is not sent a second time. Replies
    that arrive while others are being committed are committed together, in one transaction.
    """

    backend: AsyncBackend
    _in_flight: dict[str, asyncio.Event] = field(default_factory=dict)
    _arrived: _ArrivedReplies | None = None

    def __post_init__(self) -> None:
        watch_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget the requests in flight, whose replies only the parent process receives."""
        self._in_flight, self._reserved, self._arrived = {}, 0, None

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return run_on_loop(answer_concurrently(self.agenerate, requests, limit=self.batch_size))

    async def agenerate(self, request: Request) -> Reply:
        digest = request.digest(self.backend.identity)
        while digest in self._in_flight:
            await self._in_flight[digest].wait()
        reply = self.look_up({digest: request}).get(digest)
        if reply is None:
            while self._in_flight and self.must_wait([request]):
                await next(iter(self._in_flight.values())).wait()
            reply = await self._ask(digest, request) if self.affordable({digest: request}) else None
        reply = reply or self.over_cap()
        self.on_reply(reply)
        return reply

    async def _ask(self, digest: str, request: Request) -> Reply:
        self._in_flight[digest] = asyncio.Event()
        self.reserve([request])
        is_reserved = True
        try:
            reply = await self.backend.agenerate(request)
            arrived = self._add_to_arrived(digest, request, reply)
            is_reserved = False  # the commit releases the tokens
            await asyncio.shield(arrived.committed)
        except CancelledAfterReplyError as cancelled:
            self.keep({digest: request}, {digest: cancelled.reply})
            raise
        finally:
            if is_reserved:
                self.release([request])
            self._in_flight.pop(digest).set()
        return reply

    def _add_to_arrived(self, digest: str, request: Request, reply: Reply) -> _ArrivedReplies:
        """Add a reply to the replies that the event loop has received by now, which will be committed together."""
        if self._arrived is None:
            loop = asyncio.get_running_loop()
            self._arrived = _ArrivedReplies(loop.create_future())
            loop.call_soon(self._commit_arrived)  # runs after the callbacks of all other replies received by now
        self._arrived.requests[digest], self._arrived.replies[digest] = request, reply
        return self._arrived

    def _commit_arrived(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is None:  # in the child of a fork
            return
        self.release(arrived.requests.values())
        try:
            self.keep(arrived.requests, arrived.replies)
        except Exception as error:  # noqa: BLE001 - raised where the replies are waited for
            arrived.committed.set_exception(error)
            arrived.committed.exception()  # nobody may be waiting any more
        else:
            arrived.committed.set_result(None)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)


class NoLog:
    """A call log that stores nothing, to count tokens without a file; a repeated request is sent and counted again."""

    def rows(self, digests: Sequence[str]) -> dict[str, tuple[int, Reply]]:
        return {}

    def put(self, rows: Sequence[tuple[str, Request, Reply]], model: str) -> list[None]:
        return [None] * len(rows)

    def close(self) -> None:
        """Do nothing, since there is no file."""


def log_calls(backend: Backend, log: CallLog | NoLog, **options: Any) -> LoggingBackend:
    """Wrap a backend so that its calls are logged; ``options`` are further fields of `LoggingBackend`."""
    options = {"batch_characters": traits(backend).batch_characters, **options}
    if isinstance(backend, AsyncBackend):
        return AsyncLoggingBackend(backend=backend, log=log, **options)
    return LoggingBackend(backend=backend, log=log, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunCalls:
    """The result of `CallDesk.begin` for a batch of requests."""

    #: Mapping from digest to reply, for requests that the model must not answer, because the log or the cache contains
    #: a reply or because they are refused.
    replies: Mapping[str, Reply]
    missing: tuple[str, ...]


class CallDesk:
    """A desk, in the process that owns the call log, logs the calls of other processes; it is not thread-safe."""

    def __init__(self, backend: LoggingBackend) -> None:
        self._backend = backend
        self._in_flight: dict[int, dict[str, Request]] = {}

    def begin(self, owner: int, requests: Mapping[str, Request], *, refusal: str = "") -> BegunCalls | None:
        """Return the recorded replies to a batch, and register the other requests as calls in flight.

        With ``refusal``, requests without a recorded reply are answered by an error with this text. The result is the
        recorded replies and the missing digests; None if the requests may fit below the token cap once calls in flight
        have ended. The caller then has to call `begin` again after `keep`.
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

        ``arrived`` are pairs of the number of a work item and a mapping from digest to reply. The first of two replies
        to the same request is committed.
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
    """Wrap a backend so that its calls are logged by another process."""
    if isinstance(backend, AsyncBackend):
        return _AsyncDeskBackend(backend=backend, desk=desk, batch_characters=batch_characters)
    return _DeskBackend(backend=backend, desk=desk, batch_characters=batch_characters)
