"""The base class of backends for a model behind a server."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from rerank.backends.base.server_address import Address, ServerProvider, api_key_for_server
from rerank.errors import UsageError
from rerank.io.forks import ForkLock
from rerank.prompts.base import TokenCounter
from rerank.tasks import BackendOptions, Reply, Request
from rerank.tasks.backends import BaseBackend
from rerank.tasks.background_loop import await_on_task_request_loop, run_on_task_request_loop
from rerank.tasks.concurrent_replies import answer_task_requests_concurrently

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.base.server_connection import ServerConnection

#: Default number of simultaneous requests.
CONCURRENCY = 8
#: Default time limit of an attempt, in seconds; a long prompt on a CPU takes minutes.
TIMEOUT = 600.0
#: Options that can only be set when the server is started.
_LOCAL = ("revision", "adapter", "dtype", "device", "trust_remote_code", "device_map")


class ServerModelClient(Protocol):
    """Protocol of clients that send the requests for one model. All their coroutines run on the background loop."""

    @property
    def connection(self) -> ServerConnection:
        """The connections to the server."""

    async def answer(self, request: Request) -> Reply:
        """Return the reply to one request.

        Raises:
            BackendError: No request can be answered.
        """


C = TypeVar("C", bound=ServerModelClient)


class ServerBackend(BaseBackend, ABC, Generic[C]):
    """Base class of backends for a model behind a server.

    The server is first contacted by the first request. All threads and event loops share the connections, which belong
    to the background loop (`rerank.tasks.background_loop`) and are kept between calls until `close`.

    Args:
        model: Name of the model on the server.
        address: The address of the server.
        options: Backend options; None for the defaults. Only concurrency, timeout, retries, batch size and context size
            have an effect.
        sleep: Function that waits between attempts; replaced in tests.
        transport: Replacement for the network, for tests.

    Raises:
        UsageError: An option is set that only applies when the server is started, such as the dtype; or the address
            was read from a file, and a key would be sent to it without the user's permission.
    """

    #: Servers render chats with the template of their model.
    takes_verbatim = False
    #: Number of requests that may wait in the client at the same time, if it sends several in one call.
    requests_in_flight: int | None = None
    #: Function that returns whether another server can receive a request that this server did not answer; None if this
    #: is the only server.
    has_other_server: Callable[[], bool] | None = None
    _size: int | None = None

    def __init__(
        self,
        model: str,
        address: Address,
        *,
        options: BackendOptions | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: Any = None,
    ) -> None:
        """Check the options, without connecting to the server."""
        self._model = model
        self._address = address
        self._options = options or BackendOptions()
        _check_server_options(self._options)
        if address.file and address.private:
            api_key_for_server(address)  # so that a forbidden key is an error now and not at the first request
        self._concurrency = self._options.concurrency or CONCURRENCY
        self._sleep, self._transport = sleep, transport
        self._client: C | None = None
        self._creating = ForkLock()
        self._tokens = self.make_tokens(self._context_size)

    @classmethod
    def connect(cls, model: str, options: BackendOptions | None = None) -> Self:
        """Return the backend for a model on the server whose address is in the options, without connecting.

        Raises:
            UsageError: The model or the address is missing or invalid; there are several addresses, which require
                `rerank.backends.base.server_replicas`; the address was read from a file, and a key would be sent to it
                without the user's permission; or an option is set that only applies when the server is started.
            UnknownNameError: The API in the model's name is unknown.
        """
        options = options or BackendOptions()
        return cls(model, Address.parse(options.base_url or "", cls.find_provider(model)), options=options)

    @classmethod
    @abstractmethod
    def find_provider(cls, model: str) -> ServerProvider:
        """Return the provider of the server on which a model runs.

        Raises:
            UsageError: The model is missing.
        """

    @property
    def tokens(self) -> TokenCounter:
        """The model's token counter. If its counts are estimates, they are meant to be too high rather than too low."""
        return self._tokens

    @abstractmethod
    def make_tokens(self, context_size: Callable[[], int]) -> TokenCounter:
        """Return a token counter for the model, which calls ``context_size`` when the context size is needed."""

    @abstractmethod
    async def find_context_size(self) -> int:
        """Return the stated or assumed context size of the server in tokens; must run on the background loop.

        Raises:
            BackendError: The server does not answer, or requires a key.
        """

    def _context_size(self) -> int:
        """Return the context size in the options or, if None, the server's, which the first call requests."""
        if self._size is None:
            self._size = self._options.context_size or run_on_task_request_loop(self.find_context_size())
        return self._size

    @abstractmethod
    def make_client(self, connection: ServerConnection) -> C:
        """Return a client for the model, without connecting to the server."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments of the constructor: another process opens its own connections and reads its own key."""
        options = {"options": self._options, "sleep": self._sleep, "transport": self._transport}
        return partial(type(self), self._model, self._address, **options), ()

    @property
    def identity(self) -> Mapping[str, str]:
        """The model's name and the server, since two servers may have different weights under the same name."""
        return {"model": self._model, "server": self._address.name}

    @property
    def slots(self) -> int:
        """Maximum number of requests in progress at once, including requests that wait to be sent in one HTTP call."""
        return self.requests_in_flight or self._concurrency

    @property
    def batch_size(self) -> int:
        """Batch size in the options; by default twice the concurrency, so that a slow request leaves no server idle."""
        return self._options.batch_size or self.requests_in_flight or 2 * self._concurrency

    @property
    def costs_money(self) -> bool:
        """Whether calls may cost money: true if the server is on another machine."""
        return not self._address.loopback

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order; may be called by several threads, and while an event loop runs.

        At most ``concurrency`` requests run at the same time. Requests to busy or failing servers are retried after
        increasing waits, or after the wait that the server asks for. If a request is never answered, its reply has
        ``finish="error"``.

        Raises:
            BackendError: No request can be answered: no server, no such model, a rejected key, no credit.
            UsageError: The context size in the options exceeds the server's.
        """
        answer = self.get_client().answer
        return run_on_task_request_loop(answer_task_requests_concurrently(answer, requests, limit=self.slots))

    async def agenerate(self, request: Request) -> Reply:
        """Return the reply to one request. It may be called on any event loop and by several callers at the same time.

        At most ``concurrency`` requests of all callers together run at the same time; the others wait. Cancelling
        the call cancels the HTTP request, or the wait before a retry.

        Raises:
            BackendError: No request can be answered: no server, no such model, a rejected key, no credit.
            UsageError: The context size in the options exceeds the server's, or the server lacks a capability.
        """
        return await await_on_task_request_loop(self.get_client().answer(request))

    def close(self) -> None:
        """Close the connections to the server; requests in progress fail, and a later request opens new connections."""
        if self._client is not None and self._client.connection.is_open:
            run_on_task_request_loop(self._client.connection.aclose())

    async def aclose(self) -> None:
        """Close the connections to the server without blocking; may be called on any event loop."""
        if self._client is not None and self._client.connection.is_open:
            await await_on_task_request_loop(self._client.connection.aclose())

    def get_client(self) -> C:
        """Return the client; the first call creates it, without connecting."""
        from rerank.backends.base.server_connection import ServerConnection

        with self._creating:
            if self._client is None:
                connection = ServerConnection(
                    address=self._address,
                    timeout=self._options.timeout or TIMEOUT,
                    retries=self._options.retries,
                    sleep=self._sleep,
                    transport=self._transport,
                    has_other_server=self.has_other_server,
                )
                self._client = self.make_client(connection)
            return self._client


def _check_server_options(options: BackendOptions) -> None:
    """Check that no option is set that only applies when the server is started, such as the dtype."""
    for name, field in BackendOptions.model_fields.items():
        if name in _LOCAL and getattr(options, name) != field.default:
            raise UsageError(
                f"--{name.replace('_', '-')} is {getattr(options, name)}, but the model runs on a server",
                expected="no such option, since it is set when the server is started",
                remedy="Omit the option; a server lists adapters as separate models",
            )
