"""A client for one model behind a decision API, shared by all threads and event loops of a process. Imports httpx2."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rerank.backends.base.request_retries import RequestFailedError, RequestRejectedError
from rerank.backends.base.server_connection import ServerConnection
from rerank.backends.base.server_replies import AttemptCount, reply_of_failed_request
from rerank.backends.base.token_estimate import estimate_server_prompt_tokens
from rerank.backends.decisions.answers import parse_decision_response
from rerank.backends.decisions.questions import MAX_QUESTIONS, split_prompt_into_question
from rerank.io.forks import watch_forks
from rerank.tasks import DecisionTask, Reply, Request
from rerank.tasks.concurrency_limit import ConcurrencyLimit
from rerank.tasks.dialects.decisions import DecisionQuestion, DecisionRequest

#: Status codes of requests that may be valid in smaller parts: invalid, too large, and unprocessable.
_DIVIDED = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _WaitingQuestion:
    """A question that waits for its answer.

    Attributes:
        question: The question.
        task: The task of the question.
        estimated: Estimated number of prompt tokens.
        reply: Future that receives the reply.
    """

    question: DecisionQuestion
    task: DecisionTask
    estimated: int
    reply: asyncio.Future[Reply]


@dataclass(kw_only=True)
class DecisionClient:
    """A client that sends questions to one model. All its coroutines run on one event loop, so they need no locks.

    Questions about the same input that arrive before a call can be sent share the call.

    Attributes:
        connection: The connections to the server.
        model: Name of the model on the server.
        concurrency: Maximum number of simultaneous calls, of all callers together.
    """

    connection: ServerConnection
    model: str
    concurrency: int
    _waiting: dict[str, list[_WaitingQuestion]] = field(default_factory=dict, init=False, repr=False)
    _calls: set[asyncio.Task[None]] = field(default_factory=set, init=False, repr=False)
    _limit: ConcurrencyLimit = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Create the limit of simultaneous calls, and register for `after_fork_in_child`."""
        self._limit = ConcurrencyLimit(self.concurrency)
        watch_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget the questions that waited before the fork, whose answers arrive in the parent process."""
        self._waiting, self._calls = {}, set()

    async def answer(self, request: Request) -> Reply:
        """Return the reply to one request. A call is cancelled when all requests that share it have been cancelled."""
        if not isinstance(request.task, DecisionTask):
            task = type(request.task).__name__
            return Reply(finish="error", error=f"A decision API answers questions; it does not support {task}")
        parts = split_prompt_into_question(request, request.task)
        key = json.dumps(parts.input)
        asked = _WaitingQuestion(
            question=parts.question,
            task=request.task,
            estimated=estimate_server_prompt_tokens(request.prompt),
            reply=asyncio.get_running_loop().create_future(),
        )
        if key not in self._waiting:
            self._start_call(key, parts.input)
        self._waiting.setdefault(key, []).append(asked)
        return await asked.reply

    def _start_call(self, key: str, shared: list[dict[str, Any]]) -> None:
        call = asyncio.create_task(self._send_waiting(key, shared))
        self._calls.add(call)  # the event loop keeps only weak references
        call.add_done_callback(self._calls.discard)

    async def _send_waiting(self, key: str, shared: list[dict[str, Any]]) -> None:
        """Wait for a slot, send up to `MAX_QUESTIONS` questions about an input, and start another call for the rest."""
        await asyncio.sleep(0)  # requests of the same list arrive in one turn of the loop
        async with self._limit:
            waiting = [asked for asked in self._waiting.pop(key) if not asked.reply.done()]
            batch, rest = waiting[:MAX_QUESTIONS], waiting[MAX_QUESTIONS:]
            if rest:
                self._waiting[key] = rest
                self._start_call(key, shared)
            if not batch:
                return
            call = asyncio.current_task()
            for asked in batch:
                asked.reply.add_done_callback(
                    lambda _: call.cancel() if call and all(other.reply.done() for other in batch) else None
                )
            started = time.perf_counter()
            try:
                replies = await self._ask(shared, batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers would wait forever
                for asked in batch:
                    if not asked.reply.done():
                        asked.reply.set_exception(error)
                return
            seconds = (time.perf_counter() - started) / len(batch)
            for asked, reply in zip(batch, replies, strict=True):
                if not asked.reply.done():
                    asked.reply.set_result(replace(reply, seconds=seconds))

    async def _ask(self, shared: list[dict[str, Any]], batch: Sequence[_WaitingQuestion]) -> list[Reply]:
        """Return the replies to several questions. If the server rejects the call, send each half separately."""
        questions = [asked.question.model_copy(update={"name": str(n)}) for n, asked in enumerate(batch)]
        body = DecisionRequest(model=self.model, input=shared, questions=questions)
        attempts = AttemptCount(self.connection)
        try:
            replies = await self.connection.ask(
                self.connection.address.endpoint_url("/decisions"),
                body.model_dump(exclude_none=True),
                read=lambda answer: parse_decision_response(
                    answer, [asked.task for asked in batch], [asked.estimated for asked in batch]
                ),
                on_attempt=attempts.begin,
            )
        except (RequestFailedError, RequestRejectedError) as error:
            if isinstance(error, RequestRejectedError) and error.status in _DIVIDED and len(batch) > 1:
                middle = len(batch) // 2
                return [*await self._ask(shared, batch[:middle]), *await self._ask(shared, batch[middle:])]
            return [reply_of_failed_request(error, model=self.model, attempts=attempts)] * len(batch)
        return [replace(replies[0], retries=attempts.retries), *replies[1:]]
