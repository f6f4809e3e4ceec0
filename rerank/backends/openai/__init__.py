"""The backend ``openai``: models behind a server with OpenAI's interface (vLLM, SGLang, llama.cpp, Ollama, OpenAI).

docs/servers.md describes the servers, their capabilities and the keys.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from rerank.backends.base.server_address import OPENAI, ServerProvider
from rerank.backends.base.server_backend import ServerBackend
from rerank.backends.base.token_estimate import EstimatedTokens
from rerank.errors import UsageError
from rerank.prompts.base import TokenCounter
from rerank.tasks import ContinuationTask, GenerationTask, PermutationTask

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.base.server_connection import ServerConnection
    from rerank.backends.openai.batches import OpenaiBatches
    from rerank.backends.openai.client import ServerClient

#: Context size in tokens that is assumed if neither the server nor the user states it.
CONTEXT = 8192


class Openai(ServerBackend["ServerClient"]):
    """A backend for a model behind an OpenAI-compatible server.

    The server is contacted when the first request is sent, or when the context size is needed and not set in the
    options.

    Args:
        model: Name of the model on the server.
        address: The address of the server.
        options: Backend options, as for `ServerBackend`.
        sleep: Function that waits between attempts; replaced in tests.
        transport: Replacement for the network, for tests.
    """

    tasks = frozenset({GenerationTask, PermutationTask, ContinuationTask})

    @classmethod
    def find_provider(cls, model: str) -> ServerProvider:
        """Return OpenAI as the provider, whose server is used if no address is set."""
        if not model:
            raise UsageError(
                "--model openai: does not contain the name of a model",
                expected="openai:NAME, with a name that the server lists",
            )
        return OPENAI

    @property
    def batches(self) -> OpenaiBatches:
        """The batch interface of the server. The server is contacted when a method of the interface is called."""
        from rerank.backends.openai.batches import OpenaiBatches

        return OpenaiBatches(self.get_client())

    def make_tokens(self, context_size: Callable[[], int]) -> TokenCounter:
        """Return a token counter that estimates, since the server's tokenizer is unknown."""
        return EstimatedTokens(context_size)

    def make_client(self, connection: ServerConnection) -> ServerClient:
        """Return a client, which detects the kind of server and its models before the first request."""
        from rerank.backends.openai.client import ServerClient

        return ServerClient(
            connection=connection,
            model=self._model,
            concurrency=self._concurrency,
            context_size=self._options.context_size,
        )

    async def find_context_size(self) -> int:
        """Return the context size that the server states; if it states none, warn and return `CONTEXT`."""
        if size := (await self.get_client().inspect()).server.context_size:
            return size
        warnings.warn(
            f"{self._address.url} does not state the context size of {self._model!r}; {CONTEXT} tokens are "
            "assumed. Set it with --context-size",
            stacklevel=2,
        )
        return CONTEXT
