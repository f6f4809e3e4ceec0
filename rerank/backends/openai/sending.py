"""One request to one server, put again without whatever the server does not take. Knows no batch and no retries."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from rerank.backends.openai.dialect import CONSTRAINT, Dialect, Phrased
from rerank.backends.openai.http import Exchange
from rerank.backends.openai.replies import kept, read
from rerank.backends.openai.retries import Failed, Rejected
from rerank.backends.openai.server import Server, unknown_model
from rerank.errors import UsageError
from rerank.prompts.base import opening
from rerank.tasks import ContinuationTask, PermutationTask, Reply, Request

_FILTERED = ("content_filter", "content_policy_violation")


@dataclass(slots=True, kw_only=True)
class Acquaintance:
    """A server that was met: what it is, and what it turned out not to take.

    Attributes:
        server: What it says of itself.
        dialect: How requests are put to it.
        thought_too_long: Whether the user was told that thoughts left no room for an answer.
    """

    server: Server
    dialect: Dialect
    thought_too_long: bool = False

    async def ask(self, exchange: Exchange, request: Request) -> Reply:
        """Get the reply to one request; a failure is one, too.

        Raises:
            BackendError: Nothing can be answered.
            UsageError: The server cannot do what the method needs.
        """
        begun = opening(request.prompt)
        if isinstance(request.task, ContinuationTask) and begun and not self.dialect.continues:
            raise UsageError(
                f"The server does not go on with the beginning of a reply ({begun!r}), which this method needs",
                expected="vLLM, SGLang or llama.cpp",
                remedy="Let the model write: --method setwise,by=generation and pairwise,by=generation do, as do "
                "fullrank and sliding",
            )
        while True:  # every round but the last gives something up, so there are only so many
            phrased = self.dialect.phrase(request)
            try:
                reply = await _send(exchange, request, phrased)
            except Failed as error:
                return failed(str(error))
            except Rejected as error:
                if not self._give_up(phrased, error):
                    return self._rejected(error)
            else:
                self._check(phrased, request, reply)
                return reply

    def _rejected(self, error: Rejected) -> Reply:
        if error.status in (404, 405):
            raise unknown_model(self.dialect.model, str(error), self.server)
        return Reply(finish="refused") if error.code in _FILTERED else failed(str(error))

    def _give_up(self, phrased: Phrased, error: Rejected) -> bool:
        """Leave a part out from now on, if that is what the server complains about; say so the first time."""
        name = self.dialect.complaint(phrased, str(error), error.field) if error.status in (400, 422) else ""
        if name and name not in self.dialect.refused:
            self.dialect.refused.add(name)
            if name != "max_tokens":  # it has another name there, and nothing is lost
                warnings.warn(f"The server does not take {name!r}, so it is left out: {error}", stacklevel=2)
        return bool(name)

    def _check(self, phrased: Phrased, request: Request, reply: Reply) -> None:
        """See what a server that says nothing did all the same: ignored the constraint, or thought to the end."""
        held = not (phrased.constraint and isinstance(request.task, PermutationTask)) or kept(reply, request.task)
        if not held and CONSTRAINT not in self.dialect.refused:
            self.dialect.refused.add(CONSTRAINT)
            warnings.warn(
                "The server ignores that its replies are to be made of identifiers alone, so they are written freely "
                f"and repaired: {reply.text[:60]!r}",
                stacklevel=2,
            )
        if reply.finish == "length" and reply.thoughts and not reply.text and not self.thought_too_long:
            self.thought_too_long = True
            warnings.warn(
                f"The model thought for all {reply.tokens_out} tokens that it had and did not answer: give it more "
                "with --thinking-tokens",
                stacklevel=2,
            )


def failed(error: str) -> Reply:
    """A reply that never came."""
    return Reply(finish="error", error=error)


async def _send(exchange: Exchange, request: Request, phrased: Phrased) -> Reply:
    return await exchange.ask("/chat/completions", phrased.body, read=lambda body: read(body, request, phrased))
