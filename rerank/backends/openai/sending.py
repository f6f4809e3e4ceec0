"""Send requests to one server, and repeat them without the fields that the server refuses."""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import dataclass, replace

from rerank.backends.base.request_retries import RequestFailedError, RequestRejectedError
from rerank.backends.base.server_answers import ServerResponse
from rerank.backends.base.server_connection import ServerConnection
from rerank.backends.base.server_replies import AttemptCount, reply_of_failed_request
from rerank.backends.openai.dialect import CONSTRAINT, Dialect, ServerRequest
from rerank.backends.openai.replies import parse_server_reply, server_reply_satisfies_constraint
from rerank.backends.openai.server import Server, is_same_server_model, unknown_server_model_error
from rerank.errors import BackendError, UsageError
from rerank.prompts.base import reply_prefix_of_prompt
from rerank.tasks import CancelledAfterReplyError, ContinuationTask, PermutationTask, Reply, Request


@dataclass(slots=True, kw_only=True)
class ServerSession:
    """The known properties of a server: its description and the request fields that it refuses.

    Attributes:
        server: The server's description of itself.
        dialect: The request format of the server.
        has_warned_of_thoughts: Whether the user has been warned that thoughts left no tokens for an answer.
        has_warned_of_model: Whether the user has been warned that another model answers.
    """

    server: Server
    dialect: Dialect
    has_warned_of_thoughts: bool = False
    has_warned_of_model: bool = False

    async def ask(self, connection: ServerConnection, request: Request) -> Reply:
        """Return the reply to one request; a failed request gets a reply with ``finish="error"``."""
        prefix = reply_prefix_of_prompt(request.prompt)
        if isinstance(request.task, ContinuationTask) and prefix and not self.dialect.continues:
            raise UsageError(
                f"The server cannot continue a partial reply ({prefix!r}), as this method requires",
                expected="vLLM, SGLang or llama.cpp",
                remedy="Use a method that generates text: --method fullrank, --method sliding, "
                "--method setwise,by=generation or --method pairwise,by=generation",
            )
        exchange = _Exchange(request, AttemptCount(connection))
        while True:  # terminates, since every repetition omits one more field
            built = self.dialect.build_request(request)
            try:
                reply = await exchange.send(built)
            except RequestFailedError as error:
                return reply_of_failed_request(error, model=self.dialect.model, attempts=exchange.attempts)
            except RequestRejectedError as error:
                if not self._omit_refused_field(built, error):
                    return self._rejected_reply(error, exchange.attempts)
            else:
                self.check_reply(built, request, reply)
                return reply

    def _rejected_reply(self, error: RequestRejectedError, attempts: AttemptCount) -> Reply:
        if error.status in (404, 405):
            raise unknown_server_model_error(self.dialect.model, str(error), self.server)
        return reply_of_failed_request(error, model=self.dialect.model, attempts=attempts)

    def _omit_refused_field(self, built: ServerRequest, error: RequestRejectedError) -> bool:
        """If a refused field can be omitted, warn and omit it from now on; return whether it can be omitted."""
        is_about_field = error.status in (400, 422)
        name = self.dialect.find_refused_field(built, str(error), error.field) if is_about_field else ""
        if name and name not in self.dialect.refused:
            self.dialect.refused.add(name)
            if name != "max_tokens":  # the limit is then sent under its other name
                warnings.warn(f"The server refuses the field {name!r}, which is now omitted: {error}", stacklevel=2)
        return bool(name)

    def check_reply(self, built: ServerRequest, request: Request, reply: Reply) -> None:
        """Warn if another model answered, the constraint was silently ignored, or thoughts used up all tokens."""
        task = request.task
        if not self.has_warned_of_model and not is_same_server_model(self.dialect.model, reply.served_model):
            self.has_warned_of_model = True
            warnings.warn(
                f"The model {self.dialect.model!r} was requested, but {reply.served_model!r} answered; "
                "summary.json counts the replies of each model",
                stacklevel=2,
            )
        ignored = (
            built.constraint
            and isinstance(task, PermutationTask)
            and not server_reply_satisfies_constraint(reply, task)
        )
        if ignored and CONSTRAINT not in self.dialect.refused:
            self.dialect.refused.add(CONSTRAINT)
            warnings.warn(
                "The server ignores the constraint that replies contain identifiers only; replies are now generated "
                f"freely and repaired: {reply.text[:60]!r}",
                stacklevel=2,
            )
        if reply.finish == "length" and reply.thoughts and not reply.text and not self.has_warned_of_thoughts:
            self.has_warned_of_thoughts = True
            warnings.warn(
                f"The model used all {reply.tokens_out} tokens for thoughts and did not answer; increase "
                "--thinking-tokens",
                stacklevel=2,
            )


@dataclass(slots=True)
class _Exchange:
    """All attempts to get a reply to one request.

    A request whose reply has no content is sent once more, and the tokens of both replies are counted.
    """

    request: Request
    attempts: AttemptCount
    _discarded: Reply | None = None

    async def send(self, built: ServerRequest) -> Reply:
        """Send the request and return the reply. An empty reply is returned if no better one follows."""
        try:
            return await self.attempts.connection.ask(
                "/chat/completions",
                built.body,
                read=lambda answer: self._read(answer, built),
                on_attempt=self.attempts.begin,
            )
        except (RequestFailedError, RequestRejectedError, BackendError, asyncio.CancelledError) as error:
            if self._discarded is None:
                raise
            # A reply without content has arrived before, and no better reply followed.
            reply = replace(self._discarded, retries=self.attempts.retries)
            if isinstance(error, asyncio.CancelledError):
                raise CancelledAfterReplyError(reply) from error
            return reply

    def _read(self, answer: ServerResponse, built: ServerRequest) -> Reply:
        reply, has_content = parse_server_reply(answer, self.request, built)
        first = self._discarded or Reply()
        if not has_content and self._discarded is None:
            self._discarded = reply
            raise RequestFailedError(reply.error)
        return replace(
            reply,
            tokens_in=first.tokens_in + reply.tokens_in,
            tokens_out=first.tokens_out + reply.tokens_out,
            tokens_cached=first.tokens_cached + reply.tokens_cached,
            retries=self.attempts.retries,
        )
