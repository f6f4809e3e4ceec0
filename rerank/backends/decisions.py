"""The backend ``decisions``: ranks with a decision API (``POST /v1/decisions``), which answers with probabilities.

docs/servers.md describes how the requests of judges are converted to questions.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from rerank.backends.base import responses
from rerank.backends.base.addresses import OPENAI, ServerProvider
from rerank.backends.base.server import ServerBackend
from rerank.backends.base.token_estimate import EstimatedTokens, estimate_prompt
from rerank.errors import UsageError, error_repr
from rerank.prompts.passages import LETTER_IDENTIFIERS
from rerank.tasks import DecisionTask, Reply, Request
from rerank.tasks.dialects import decisions

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.base.client import Server
    from rerank.backends.base.connection import ServerConnection

#: Context size in tokens that is assumed for input and question together if the user states none.
CONTEXT = 8192
#: Maximum number of questions in a call.
MAX_QUESTIONS = 400
#: Status codes of requests that may be valid in smaller parts: invalid, too large, and unprocessable.
_DIVIDED = frozenset({400, 413, 422})
#: Smallest probability. Smaller values, including 0, are replaced by it, since the logarithm of 0 is not finite.
_LEAST = 1e-300
#: Largest amount by which a probability may exceed 1, since servers round probabilities.
_ROUNDING = 1e-6
_ANSWER: TypeAdapter[decisions.DecisionAnswer] = TypeAdapter(decisions.DecisionAnswer)


class DecisionTokens(EstimatedTokens):
    """A token counter that estimates, and allows all letters as identifiers, which may have several tokens."""

    letters = LETTER_IDENTIFIERS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Asked:
    question: decisions.DecisionQuestion
    task: DecisionTask
    estimated: int  # number of prompt tokens
    reply: asyncio.Future[Reply]


class Decisions(ServerBackend[int]):
    """A backend for a model behind a decision API, which answers questions with probabilities.

    Requests whose prompts begin with the same input, such as the requests for the documents of one query, are sent
    together, up to 400 in one call: those that arrive before a call can be sent share the call. If the response
    contains no valid answer to a question, the reply to that question contains an error; if the model refuses a
    question, the reply has ``finish="refused"``. The other answers of the call are kept.
    """

    tasks = frozenset({DecisionTask})
    default_method = "pointwise"
    token_counter = DecisionTokens
    requests_in_flight = MAX_QUESTIONS

    def after_fork_in_child(self) -> None:
        """Forget waiting questions; those that waited before a fork are answered in the parent process."""
        self._waiting: dict[str, list[_Asked]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    @classmethod
    def find_provider(cls, model: str) -> ServerProvider:
        if not model:
            raise UsageError("--model decisions: does not contain the name of a model", expected="decisions:NAME")
        return OPENAI

    async def inspect(self, connection: ServerConnection) -> int:
        return CONTEXT  # the API states none

    def context_size_of(self, description: int) -> int:
        return description

    async def answer(self, request: Request) -> Reply:
        """Return the reply to one request. A call is cancelled when all requests that share it have been cancelled."""
        if not isinstance(request.task, DecisionTask):
            task = type(request.task).__name__
            return Reply(finish="error", error=f"A decision API answers questions; it does not support {task}")
        shared, question = split_prompt_into_question(request, request.task)
        asked = _Asked(
            question=question,
            task=request.task,
            estimated=estimate_prompt(request.prompt),
            reply=asyncio.get_running_loop().create_future(),
        )
        key = json.dumps(shared)
        if key not in self._waiting:
            self._start_call(key, shared)
        self._waiting.setdefault(key, []).append(asked)
        return await asked.reply

    def _start_call(self, key: str, shared: list[dict[str, Any]]) -> None:
        call = asyncio.create_task(self._send_waiting(key, shared))
        self._calls.add(call)  # the event loop keeps only weak references
        call.add_done_callback(self._calls.discard)

    async def _send_waiting(self, key: str, shared: list[dict[str, Any]]) -> None:
        """Send up to `MAX_QUESTIONS` questions about an input once there is a slot; start another call for the rest."""
        await asyncio.sleep(0)  # requests of the same list arrive in one turn of the loop
        batch: list[_Asked] = []

        async def send(server: Server[int]) -> list[Reply]:
            if not batch:  # the first server with a slot
                waiting = [asked for asked in self._waiting.pop(key) if not asked.reply.done()]
                batch.extend(waiting[:MAX_QUESTIONS])
                if rest := waiting[MAX_QUESTIONS:]:
                    self._waiting[key] = rest
                    self._start_call(key, shared)
                call = asyncio.current_task()
                for asked in batch:
                    asked.reply.add_done_callback(
                        lambda _: call.cancel() if call and all(other.reply.done() for other in batch) else None
                    )
            return await self._ask(shared, batch, server) if batch else []

        try:
            replies = await self.client.exchange(key, send)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers would wait forever
            for asked in batch or self._waiting.pop(key, []):
                if not asked.reply.done():
                    asked.reply.set_exception(error)
            return
        if len(replies) < len(batch):  # the reply of a server that did not answer
            replies *= len(batch)
        for asked, reply in zip(batch, replies, strict=True):
            if not asked.reply.done():
                asked.reply.set_result(reply)

    async def _ask(self, shared: list[dict[str, Any]], batch: Sequence[_Asked], server: Server[int]) -> list[Reply]:
        """Return the replies to several questions. If the server rejects the call, send each half separately."""
        questions = [asked.question.model_copy(update={"name": str(n)}) for n, asked in enumerate(batch)]
        body = decisions.DecisionRequest(model=self._model, input=shared, questions=questions)
        attempts = responses.Attempts(server.connection)
        try:
            replies = await server.connection.ask(
                server.connection.address.endpoint_url("/decisions"),
                body.model_dump(exclude_none=True),
                read=partial(parse_response, batch=batch),
                attempts=attempts,
            )
        except (responses.RequestFailedError, responses.RequestRejectedError) as error:
            if isinstance(error, responses.RequestRejectedError) and error.status in _DIVIDED and len(batch) > 1:
                middle = len(batch) // 2
                return [
                    *await self._ask(shared, batch[:middle], server),
                    *await self._ask(shared, batch[middle:], server),
                ]
            return [attempts.failed_reply(error, self._model)] * len(batch)
        return [replace(replies[0], retries=attempts.retries), *replies[1:]]


def split_prompt_into_question(
    request: Request, task: DecisionTask
) -> tuple[list[dict[str, Any]], decisions.DecisionQuestion]:
    """Divide a prompt into the input, messages that other requests may share, and the question about it.

    If the prompt contains text before its passages, such as the query, this text is the input, and the passages are a
    part of the question: of its instructions, or as the descriptions of its choices. Otherwise the passages are the
    input. Turns of the prompt after the last user turn are omitted.
    """
    last = max(index for index, turn in enumerate(request.prompt) if turn.role in ("user", "text"))
    text = request.prompt[last].content
    first, end = task.spans[0][0], task.spans[-1][1]
    passages: list[str | None] = [text[start:stop] for start, stop in task.spans]
    if text[:first].strip():
        shared = text[:first].rstrip()
        instructions = text[task.tail :] if task.question == "choice" else text[first:]
    else:
        shared, instructions = text[:end], text[end:]
        passages = [None] * len(passages)
    turns = [(turn.role, turn.content) for turn in request.prompt[:last]]
    messages = [{"role": role, "content": content} for role, content in (*turns, ("user", shared))]
    instructions = instructions.strip()
    if task.question == "predicate":
        return messages, decisions.PredicateQuestion(type="predicate", instructions=instructions)
    if task.question == "choice":
        choices = [
            decisions.DecisionChoice(value=option, description=passage)
            for option, passage in zip(task.options, passages, strict=True)
        ]
        return messages, decisions.ChoiceQuestion(type="choice", instructions=instructions, choices=choices)
    levels = [decisions.DecisionLevel(label=option) for option in reversed(task.options)]
    return messages, decisions.ScoreQuestion(type="score", instructions=instructions, levels=levels)


class _UnusableAnswerError(Exception):
    """Raised if a question has no valid answer; the message states the reason for the user."""


def parse_response(answer: responses.ServerResponse, batch: Sequence[_Asked]) -> list[Reply]:
    """Convert a response to one reply per question. The name of each question is its position.

    Every complete response has been billed, so it is always converted. If there is not exactly one valid answer to a
    question, the ``error`` of its reply states the reason, and the other answers are kept. The tokens of the call are
    divided evenly, into integers that differ by at most 1.
    """
    body = answer.body
    if body.get("error") and not body.get("answers"):
        raise responses.RequestFailedError(f"The server responded with an error: {answer.text}")
    usage = responses.object_in(body.get("usage"))
    cached = responses.object_in(usage.get("input_tokens_details")).get("cached_tokens")
    totals = [responses.count_in(total) for total in (usage.get("input_tokens"), usage.get("output_tokens"), cached)]
    # Answers are found by name, or by order if none has a name; None stands for no answer or several answers.
    rows = body.get("answers")
    rows = rows if isinstance(rows, list) else []
    names = [responses.object_in(row).get("name") for row in rows]
    if len(rows) != len(batch) or any(name is not None for name in names):
        expected = [str(position) for position in range(len(batch))]
        rows = [rows[names.index(name)] if names.count(name) == 1 else None for name in expected]
    replies = []
    for position, (asked, row) in enumerate(zip(batch, rows, strict=True)):
        tokens_in, tokens_out, tokens_cached = (
            total * (position + 1) // len(batch) - total * position // len(batch) for total in totals
        )
        reply = Reply(
            tokens_in=tokens_in or asked.estimated,
            tokens_out=tokens_out,
            tokens_cached=tokens_cached,
            served_model=responses.name_in(body.get("model")),
        )
        try:
            scores = _scores(asked.task, row)
        except _UnusableAnswerError as error:
            replies.append(replace(reply, error=responses.shorten(answer.unreadable or str(error))))
        else:
            replies.append(replace(reply, scores=scores or (), finish="refused" if scores is None else "stop"))
    return replies


def _scores(task: DecisionTask, row: Any) -> tuple[float, ...] | None:
    """Return the log-probabilities of the options; None for a refusal."""
    if row is None:
        raise _UnusableAnswerError("The response does not contain exactly one answer to this question")
    try:
        found = _ANSWER.validate_python(row)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise _UnusableAnswerError(f"Invalid answer: {place}: {fault['msg']}, {error_repr(fault['input'])}") from error
    if isinstance(found, decisions.RefusalAnswer):
        return None
    if found.type != task.question:
        raise _UnusableAnswerError(f"The answer to a {task.question} question has the type {found.type}")
    pairs: list[tuple[Any, float]]
    if isinstance(found, decisions.PredicateAnswer):
        pairs = list(zip(task.options, (found.probability, 1 - found.probability), strict=True))
    elif isinstance(found, decisions.ChoiceAnswer):
        pairs = [(row.value, row.probability) for row in found.probabilities]
    else:
        pairs = [(row.label, row.probability) for row in found.probabilities]
    options = [option for option, _ in pairs]
    # The probability of an option that occurs repeatedly is NaN, which is rejected below.
    shares = {option: share if options.count(option) == 1 else math.nan for option, share in pairs}
    if set(shares) != set(task.options):
        stated, expected = error_repr(list(shares)), error_repr(list(task.options))
        raise _UnusableAnswerError(f"The answer contains probabilities of {stated} instead of {expected}")
    if not all(0 <= share <= 1 + _ROUNDING for share in shares.values()):
        raise _UnusableAnswerError(
            f"The answer contains probabilities that are not from 0 to 1: {error_repr(list(shares.values()))}"
        )
    return tuple(math.log(max(_LEAST, min(1.0, shares[option]))) for option in task.options)
