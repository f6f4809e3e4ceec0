"""The backend ``decisions``: ranks with a decision API (``POST /v1/decisions``), which answers with probabilities.

docs/servers.md describes how the requests of judges are converted to questions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rerank.backends.base.server_address import OPENAI, ServerProvider
from rerank.backends.base.server_backend import ServerBackend
from rerank.backends.base.token_estimate import EstimatedTokens
from rerank.backends.decisions.questions import MAX_QUESTIONS
from rerank.errors import UsageError
from rerank.prompts.base import TokenCounter
from rerank.prompts.identifiers import LETTER_IDENTIFIERS
from rerank.tasks import DecisionTask

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.base.server_connection import ServerConnection
    from rerank.backends.decisions.client import DecisionClient

#: Context size in tokens that is assumed for input and question together if the user states none.
CONTEXT = 8192


class DecisionTokens(EstimatedTokens):
    """A token counter that estimates. It allows all letters as identifiers, since an option may have several tokens."""

    letters = LETTER_IDENTIFIERS


class Decisions(ServerBackend["DecisionClient"]):
    """A backend for a model behind a decision API, which answers questions with probabilities.

    Requests whose prompts begin with the same input, such as the requests for the documents of one query, are sent
    together, up to 400 in one call. If the response contains no valid answer to a question, the reply to that question
    contains an error; if the model refuses a question, the reply has ``finish="refused"``. The other answers of the
    call are kept.

    Args:
        model: Name of the model on the server.
        address: The address of the server.
        options: Backend options, as for `ServerBackend`.
        sleep: Function that waits between attempts; replaced in tests.
        transport: Replacement for the network, for tests.
    """

    tasks = frozenset({DecisionTask})
    default_method = "pointwise"
    requests_in_flight = MAX_QUESTIONS

    @classmethod
    def find_provider(cls, model: str) -> ServerProvider:
        """Return OpenAI as the provider, whose server is used if no address is set."""
        if not model:
            raise UsageError("--model decisions: does not contain the name of a model", expected="decisions:NAME")
        return OPENAI

    def make_tokens(self, context_size: Callable[[], int]) -> TokenCounter:
        """Return a token counter that estimates, since the server's tokenizer is unknown."""
        return DecisionTokens(context_size)

    async def find_context_size(self) -> int:
        """Return the assumed context size, since the API states none."""
        return CONTEXT

    def make_client(self, connection: ServerConnection) -> DecisionClient:
        """Return a client for the model, without connecting to the server."""
        from rerank.backends.decisions.client import DecisionClient

        return DecisionClient(connection=connection, model=self._model, concurrency=self._concurrency)
