"""The backend ``api``: hosted rerankers (Cohere, Jina, Voyage, ZeroEntropy) and rerank servers (TEI, vLLM).

docs/servers.md describes the APIs, their limits and the keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rerank.backends.api.providers import RERANK_APIS, RerankApi
from rerank.backends.base.server_address import Address
from rerank.backends.base.server_backend import ServerBackend
from rerank.backends.base.token_estimate import EstimatedPairTokens
from rerank.errors import UnknownNameError, UsageError
from rerank.prompts.base import TokenCounter
from rerank.tasks import BackendOptions, CrossEncoderTask
from rerank.tasks.background_loop import run_on_task_request_loop

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.api.client import RerankApiClient
    from rerank.backends.base.server_connection import ServerConnection


class Api(ServerBackend["RerankApiClient"]):
    """A backend for a reranker behind an API that scores the documents of a query.

    The first turn of a prompt is the query, and each further turn is a passage. A list that is longer than the API
    allows is sent in parts. An answer that does not have exactly one finite score per passage becomes a reply with an
    error, so that the list keeps its order.

    Args:
        model: The API and the model's name there, such as ``cohere/rerank-v4.0-pro``.
        address: The address of the server.
        options: Backend options, as for `ServerBackend`.
        sleep: Function that waits between attempts; replaced in tests.
        transport: Replacement for the network, for tests.

    Raises:
        UnknownNameError: There is no such API.
        UsageError: The model is missing, or an option can only be set when the server is started.
    """

    tasks: ClassVar[frozenset[type[Any]]] = frozenset({CrossEncoderTask})
    #: The method that ``auto`` stands for.
    default_method: ClassVar[str] = "cross-encoder"
    _size: int | None = None

    def __init__(self, model: str, address: Address, **options: Any) -> None:
        """Check the name and the options, without connecting."""
        self._api, self._api_model = _parse_model_of_api(model)
        super().__init__(model, address, **options)

    @classmethod
    def connect(cls, model: str, options: BackendOptions | None = None) -> Api:
        """Return the backend of ``--model api:API/MODEL``, without connecting.

        Raises:
            UnknownNameError: There is no such API.
            UsageError: The model or the address is missing, the address is invalid, only a file names it and a key
                would be sent to it, or an option can only be set when the server is started.
        """
        options = options or BackendOptions()
        api, _ = _parse_model_of_api(model)
        return cls(model, Address.parse(options.base_url, api.provider), options=options)

    def make_tokens(self) -> TokenCounter:
        """Return a counter of pairs that asks the server for its context size when that is needed."""
        return EstimatedPairTokens(self._context_size)

    def make_client(self, connection: ServerConnection) -> RerankApiClient:
        """Return a client that inspects the limits of the server at its first request, if the server states them."""
        from rerank.backends.api.client import RerankApiClient

        return RerankApiClient(
            connection=connection,
            api=self._api,
            model=self._api_model,
            concurrency=self._concurrency,
            context_size=self._options.context_size,
            tokens=self._tokens,
        )

    def _context_size(self) -> int:
        if self._size is None:
            self._size = self._options.context_size
        if self._size is None:
            self._size = run_on_task_request_loop(self.get_client().find_limits()).context_size
        return self._size


def _parse_model_of_api(text: str) -> tuple[RerankApi, str]:
    """Return the API and the name of the model there.

    Raises:
        UnknownNameError: There is no such API.
        UsageError: The API needs a name, and there is none.
    """
    name, _, model = text.partition("/")
    if name not in RERANK_APIS:
        raise UnknownNameError("rerank API", name, [f"{known}/MODEL" for known in RERANK_APIS])
    api = RERANK_APIS[name]
    if not model and not api.serves_one_model:
        raise UsageError(f"--model api:{text} names no model", expected=f"api:{name}/MODEL")
    return api, model
