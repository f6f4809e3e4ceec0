"""A client for one reranker behind an API, shared by all threads and event loops of a process. Imports httpx2."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rerank.backends.api.providers import RerankApi, RerankApiLimits, split_documents_for_api
from rerank.backends.api.results import parse_rerank_response
from rerank.backends.base.request_retries import RequestFailedError, RequestRejectedError
from rerank.backends.base.server_connection import ServerConnection
from rerank.backends.base.server_replies import AttemptCount, ServerUnavailableError, reply_of_failed_request
from rerank.backends.base.token_estimate import PAIR
from rerank.prompts.base import Prompt, TokenCounter
from rerank.tasks import CrossEncoderTask, Reply, Request
from rerank.tasks.concurrency_limit import ConcurrencyLimit, SharedCall


@dataclass(kw_only=True)
class RerankApiClient:
    """A client that sends requests to one reranker. All its coroutines run on one event loop, so they need no locks.

    Attributes:
        connection: The connections to the server.
        api: The rerank API.
        model: Name of the model in the API.
        concurrency: Maximum number of simultaneous HTTP requests, of all callers together.
        context_size: The context size that the user set; None for the API's default.
        tokens: A token counter that estimates the length of query-passage pairs.
    """

    connection: ServerConnection
    api: RerankApi
    model: str
    concurrency: int
    context_size: int | None
    tokens: TokenCounter
    _limits: RerankApiLimits | None = field(default=None, init=False, repr=False)
    _limit: ConcurrencyLimit = field(init=False, repr=False)
    _inspection: SharedCall[RerankApiLimits] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Create the limit on simultaneous requests and the shared call that inspects the server."""
        self._limit = ConcurrencyLimit(self.concurrency)
        self._inspection = SharedCall(self._inspect)

    async def find_limits(self) -> RerankApiLimits:
        """Return the limits that the server states, or else the documented limits. The first call asks the server."""
        return self._limits or await self._inspection()

    async def _inspect(self) -> RerankApiLimits:
        context_size, documents = 0, 0
        url = self.connection.address.root + self.api.limits_path
        attempts = AttemptCount(self.connection)
        try:
            if self.api.limits_path:
                context_size, documents = await self.connection.ask(
                    url, read=lambda answer: self.api.read_limits(answer.body, self.model), on_attempt=attempts.begin
                )
        except RequestRejectedError:
            pass
        except RequestFailedError as error:  # a server that is down now may state its limits later
            if self.connection.has_other_server is not None and not await self.connection.is_up():
                raise ServerUnavailableError.after(error, attempts, f"Start the server at {url}") from error
        limits = replace(
            self.api.limits,
            context_size=context_size or self.api.limits.context_size,
            documents=documents or self.api.limits.documents,
        )
        if self.api.limits_path and not (context_size or self.context_size):
            warnings.warn(
                f"{url} does not state the context size; {limits.context_size} tokens are assumed. Set it with "
                "--context-size",
                stacklevel=2,
            )
        self._limits = limits
        return limits

    async def answer(self, request: Request) -> Reply:
        """Return the reply to one request. Its passages are divided over as many HTTP requests as the API requires."""
        if not isinstance(request.task, CrossEncoderTask):
            task = type(request.task).__name__
            return Reply(finish="error", error=f"A rerank API scores pairs; it does not support {task}")
        query, *documents = request.prompt
        query_length, *lengths = self.tokens.lengths([message.content for message in request.prompt])
        replies: list[Reply] = []
        for part in split_documents_for_api(lengths, query_length + PAIR, await self.find_limits()):
            replies.append(await self._score((query, *documents[part.start : part.stop])))
            if not replies[-1].scores:
                break  # without these scores the list cannot be ordered, and further parts would be billed
        return _join_parts(replies)

    async def _score(self, prompt: Prompt) -> Reply:
        """Return the reply to one HTTP request, with a query and one part of the passages."""
        query, *documents = [message.content for message in prompt]
        body = self.api.make_body(self.model, query, documents, self.context_size)
        estimated, attempts = self.tokens.count(prompt), AttemptCount(self.connection)
        async with self._limit:
            started = time.perf_counter()
            try:
                reply = await self.connection.ask(
                    self.connection.address.endpoint_url(self.api.endpoint, self.api.version),
                    body.model_dump(exclude_unset=True, by_alias=True),
                    read=lambda answer: parse_rerank_response(
                        answer, self.api.results, documents=len(documents), estimated_tokens=estimated
                    ),
                    on_attempt=attempts.begin,
                )
            except (RequestFailedError, RequestRejectedError) as error:
                return reply_of_failed_request(error, model=self.model, attempts=attempts)
            return replace(reply, retries=attempts.retries, seconds=time.perf_counter() - started)


def _join_parts(parts: Sequence[Reply]) -> Reply:
    """Combine the replies to the parts of a request. Only the last one may lack scores; then the result has none."""
    last = parts[-1] if parts else Reply()
    return replace(
        last,
        scores=tuple(score for part in parts for score in part.scores) if last.scores else (),
        tokens_in=sum(part.tokens_in for part in parts),
        tokens_cached=sum(part.tokens_cached for part in parts),
        search_units=sum(part.search_units for part in parts),
        seconds=sum(part.seconds for part in parts),
        retries=sum(part.retries for part in parts),
    )
