"""The backend ``openai``: models behind a server with OpenAI's interface (vLLM, SGLang, llama.cpp, OpenAI, Gemini).

docs/servers.md describes the servers, their capabilities and the keys.
"""

from __future__ import annotations

import asyncio
import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rerank.backends.base.addresses import OPENAI, Address, ServerProvider
from rerank.backends.base.responses import Attempts, RequestFailedError, RequestRejectedError, ServerResponse
from rerank.backends.base.server import ServerBackend, group_of
from rerank.backends.openai.dialect import Dialect, ParsedReply, ServerRequest, inspect_server, parse_reply
from rerank.backends.openai.recipes import LOGPROBS, RECIPES, find_recipe
from rerank.backends.openai.thinking import ROOM, thinks_by_default
from rerank.errors import BackendError, UsageError
from rerank.prompts.base import reply_prefix_of_prompt
from rerank.tasks import CancelledAfterReplyError, ContinuationTask, GenerationTask, PermutationTask, Reply, Request

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.base.client import Server
    from rerank.backends.base.connection import ServerConnection
    from rerank.backends.openai.batches import OpenaiBatches

#: Context size in tokens that is assumed if neither the server nor the user states it.
CONTEXT = 8192


class Openai(ServerBackend[Dialect]):
    """A backend for a model behind OpenAI-compatible servers."""

    tasks = frozenset({GenerationTask, PermutationTask, ContinuationTask})

    def __init__(self, model: str, address: Address, **options: Any) -> None:
        self._recipe, self.served_name = find_recipe(model)
        if LOGPROBS in self._recipe.lacks:
            self.tasks = type(self).tasks - {ContinuationTask}
            self.lacks = f"{model.partition(':')[0]} returns no log-probabilities"
        first = self.served_name.partition("/")[0]
        if address.url == OPENAI.url and first in RECIPES:
            raise UsageError(
                f"OpenAI has no model {self.served_name!r}",
                expected=f"openai:{first}:{self.served_name.partition('/')[2]} for the provider, or --base-url",
            )
        super().__init__(model, address, **options)

    @classmethod
    def find_provider(cls, model: str) -> ServerProvider:
        return find_recipe(model)[0].provider

    @property
    def batches(self) -> OpenaiBatches:
        """The batch interface of the server. The server is contacted when a method of the interface is called."""
        # An attribute that is missing, so that several servers and other providers count as backends without batches.
        if len(self._addresses) > 1 or self._recipe.provider is not OPENAI:
            raise AttributeError("batches are submitted to a single server that has OpenAI's batch interface")
        from rerank.backends.openai.batches import OpenaiBatches

        return OpenaiBatches(self.client.servers[0])

    @property
    def thought_room(self) -> int:  # type: ignore[override]
        """Tokens for thoughts by the model's name; 0 on this machine, since its servers can switch thinking off."""
        return ROOM if self.costs_money and thinks_by_default(self.served_name) else 0

    async def inspect(self, connection: ServerConnection) -> Dialect:
        dialect = await inspect_server(connection, self.served_name, self._recipe)
        size, available = self._options.context_size, dialect.context_size
        if size and available and size > available:
            raise UsageError(
                f"--context-size is {size}",
                expected=f"at most {available}, the context size of {connection.address.url}",
            )
        return dialect

    def context_size_of(self, description: Dialect) -> int:
        """Return the context size that the server states; if it states none, warn and return `CONTEXT`."""
        if description.context_size is None:
            warnings.warn(
                f"{description.url} does not state the context size of {self.served_name!r}; {CONTEXT} tokens are "
                "assumed. Set it with --context-size",
                stacklevel=2,
            )
        return description.context_size or CONTEXT

    async def answer(self, request: Request) -> Reply:
        (reply,) = await self.client.exchange(group_of(request), partial(self._ask, request))
        return reply

    async def _ask(self, request: Request, server: Server[Dialect]) -> list[Reply]:
        """Send a request, and repeat it without the fields that the server refuses.

        A request whose reply has no answer is sent once more, with more room for thoughts if thoughts used up the
        tokens of the answer. The tokens of both replies are counted.
        """
        dialect, attempts = await server.describe(), Attempts(server.connection)
        prefix = reply_prefix_of_prompt(request.prompt)
        if isinstance(request.task, ContinuationTask) and prefix and not dialect.continues:
            raise UsageError(
                f"The server cannot continue a partial reply ({prefix!r}), as this method requires",
                expected="vLLM, SGLang or llama.cpp",
                remedy="Use a method that generates text: --method fullrank, --method sliding, "
                "--method setwise,by=generation or --method pairwise,by=generation",
            )
        first: Reply | None = None  # a billed reply without an answer, after which the request is sent once more
        has_more_room = False

        def read(answer: ServerResponse) -> ParsedReply:
            nonlocal first
            parsed = parse_reply(answer, request, sent)
            dialect.thinks = dialect.thinks or (parsed.thinks and not request.sampling.thinking)
            if not parsed.has_content and first is None:
                first = parsed.reply
                raise RequestFailedError(parsed.reply.error)
            return parsed

        def can_have_more(sent: ServerRequest) -> bool:
            if has_more_room or server.connection.retries == 0:
                return False
            return dialect.build_request(request, has_more_room=True).room > sent.room

        while True:  # terminates: a repetition omits one more field, or has more room for thoughts, and then none
            sent = dialect.build_request(request, has_more_room=has_more_room)
            try:
                parsed = await server.connection.ask("/chat/completions", sent.body, read=read, attempts=attempts)
            except (RequestFailedError, RequestRejectedError, BackendError, asyncio.CancelledError) as error:
                if first is not None:  # no better reply followed
                    reply = replace(first, retries=attempts.retries)
                    if isinstance(error, asyncio.CancelledError):
                        raise CancelledAfterReplyError(reply) from error
                elif isinstance(error, RequestRejectedError) and (
                    dialect.omit_refused_field(sent, error) or dialect.refuses_room(sent, request, error)
                ):
                    continue
                elif isinstance(error, RequestRejectedError) and dialect.is_without_room(error):
                    if can_have_more(sent):
                        has_more_room = True
                        continue
                    return [Reply(finish="error", error=f"{error} (--thinking-tokens)", retries=attempts.retries)]
                elif isinstance(error, RequestRejectedError) and error.status in (404, 405):
                    raise dialect.unknown_model(str(error)) from error
                elif isinstance(error, RequestFailedError | RequestRejectedError):
                    return [attempts.failed_reply(error, self.served_name)]
                else:
                    raise
            else:
                if parsed.lacks_room and first is None and can_have_more(sent):
                    first, has_more_room = parsed.reply, True
                    continue
                reply, billed = parsed.reply, first or Reply()
                reply = replace(
                    reply,
                    tokens_in=billed.tokens_in + reply.tokens_in,
                    tokens_out=billed.tokens_out + reply.tokens_out,
                    tokens_cached=billed.tokens_cached + reply.tokens_cached,
                    retries=attempts.retries,
                )
            dialect.check_reply(sent, request, reply)
            return [reply]
