"""The backend ``api``: hosted rerankers (Cohere, Jina, Voyage, ZeroEntropy) and rerank servers (TEI, vLLM).

docs/servers.md describes the APIs, their limits and the keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rerank.backends.api.providers import RERANK_APIS, RerankApi
from rerank.backends.base.server_address import Address, ServerProvider
from rerank.backends.base.server_backend import ServerBackend
from rerank.backends.base.token_estimate import EstimatedPairTokens
from rerank.errors import UnknownNameError, UsageError
from rerank.prompts.base import TokenCounter
from rerank.tasks import CrossEncoderTask

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.api.client import RerankApiClient
    from rerank.backends.base.server_connection import ServerConnection


class Api(ServerBackend["RerankApiClient"]):
    """A backend for a reranker that is called through an API and scores the documents of a query.

    The first turn of a prompt is the query, and each further turn is a passage. A list of passages that is longer than
    the API allows is sent in several HTTP requests. A response that does not contain exactly one finite score per
    passage becomes a reply with an error, so that the candidates keep their order.

    Args:
        model: Name of the API and of the model, such as ``cohere/rerank-v4.0-pro``.
        address: The address of the server.
        options: Backend options, as for `ServerBackend`.
        sleep: Function that waits between attempts; replaced in tests.
        transport: Replacement for the network, for tests.
    """

    tasks = frozenset({CrossEncoderTask})
    default_method = "cross-encoder"

    def __init__(self, model: str, address: Address, **options: Any) -> None:
        """Check the name and the options, without connecting."""
        self._api, self._api_model = _parse_model_of_api(model)
        super().__init__(model, address, **options)

    @classmethod
    def find_provider(cls, model: str) -> ServerProvider:
        """Return the provider of the API that the model's name starts with."""
        api, _ = _parse_model_of_api(model)
        return api.provider

    def make_tokens(self, context_size: Callable[[], int]) -> TokenCounter:
        """Return a token counter that estimates the length of query-passage pairs."""
        return EstimatedPairTokens(context_size)

    def make_client(self, connection: ServerConnection) -> RerankApiClient:
        """Return a client, which asks the server for its limits before the first rerank request."""
        from rerank.backends.api.client import RerankApiClient

        return RerankApiClient(
            connection=connection,
            api=self._api,
            model=self._api_model,
            concurrency=self._concurrency,
            context_size=self._options.context_size,
            tokens=self._tokens,
        )

    async def find_context_size(self) -> int:
        """Return the context size that the server states or, if it states none, the one in the API's documentation."""
        return (await self.get_client().find_limits()).context_size


def _parse_model_of_api(text: str) -> tuple[RerankApi, str]:
    """Split a name such as ``cohere/rerank-v4.0-pro`` into the API and the name of the model in this API."""
    name, _, model = text.partition("/")
    if name not in RERANK_APIS:
        raise UnknownNameError("rerank API", name, [f"{known}/MODEL" for known in RERANK_APIS])
    api = RERANK_APIS[name]
    if not model and not api.serves_one_model:
        raise UsageError(f"--model api:{text} does not contain the name of a model", expected=f"api:{name}/MODEL")
    return api, model
