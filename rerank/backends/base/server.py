"""The base class of backends for a model behind a server, or behind several servers."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from rerank.backends.base.addresses import Address, ServerProvider, api_key_for_server
from rerank.backends.base.token_estimate import EstimatedTokens
from rerank.errors import ensure
from rerank.io.forks import ForkLock, watch_forks
from rerank.prompts.base import TokenCounter
from rerank.tasks import BackendOptions, Reply, Request
from rerank.tasks.backends import BaseBackend
from rerank.tasks.concurrency import answer_concurrently, await_on_loop, run_on_loop

if TYPE_CHECKING:  # importing httpx2 takes 0.1 s, so commands without a server avoid it
    from rerank.backends.base.client import ServerClient
    from rerank.backends.base.connection import ServerConnection

S = TypeVar("S")

#: Default number of simultaneous requests to each server.
CONCURRENCY = 8
#: Default time limit of an attempt, in seconds; a long prompt on a CPU takes minutes.
TIMEOUT = 600.0
#: Options that can only be set when the server is started.
_LOCAL = ("revision", "adapter", "merge_adapter", "dtype", "device", "trust_remote_code", "device_map")


class ServerBackend(BaseBackend, ABC, Generic[S]):
    """Base class of backends for a model behind one or several servers; ``S`` is the description of a server.

    The servers are first contacted by the first request. All threads and event loops share the connections, which
    belong to the background loop (`rerank.tasks.concurrency`) and are kept between calls until `close`. Only the
    options concurrency, timeout, retries, batch size and context size have an effect.

    Raises `UsageError` if an option is set that only applies when the server is started, such as the dtype; if two
    addresses belong to the same server; or if an address was read from a file, and a key would be sent to it
    without the user's permission.
    """

    #: Servers render chats with the template of their model.
    takes_verbatim = False
    #: The class of the token counter, which asks for the context size when it is needed.
    token_counter: type[EstimatedTokens] = EstimatedTokens
    #: Function that signs requests, from their URL and body to headers; None if a key is sent.
    _sign: Callable[[str, bytes], Mapping[str, str]] | None = None
    #: Number of requests that may wait to be sent together, if one HTTP call contains several requests.
    requests_in_flight: int | None = None

    def __init__(
        self,
        model: str,
        address: Address,
        *,
        options: BackendOptions | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: Any = None,
    ) -> None:
        self._model, self._options = model, options or BackendOptions()
        for name in _LOCAL:
            value = getattr(self._options, name)
            ensure(
                value == BackendOptions.model_fields[name].default,
                f"--{name.replace('_', '-')} is {value}, but the model runs on a server",
                expected="no such option, since it is set when the server is started",
                remedy="Omit the option; a server lists adapters as separate models",
            )
        self._use((address,))
        self._concurrency = self._options.concurrency or CONCURRENCY
        self._sleep, self._transport = sleep, transport
        self._client: ServerClient[S] | None = None
        self._creating = ForkLock()
        self._size: int | None = self._options.context_size
        #: The model's token counter. If its counts are estimates, they are meant to be too high rather than too low.
        #: A plug-in may define ``make_tokens(context_size)`` instead of `token_counter`.
        self.tokens: TokenCounter = getattr(self, "make_tokens", self.token_counter)(self._context_size)
        self.after_fork_in_child()
        watch_forks(self)

    @classmethod
    def over(cls, model: str, addresses: Sequence[Address], **options: Any) -> Self:
        """Return the backend for a model on one or several servers; further arguments are those of the class."""
        backend = cls(model, addresses[0], **options)
        backend._use(tuple(addresses))
        return backend

    def _use(self, addresses: tuple[Address, ...]) -> None:
        for address in addresses:
            if address.file and address.private:
                api_key_for_server(address)  # so that a forbidden key is an error now and not at the first request
        names = sorted(address.name for address in addresses)
        ensure(
            len(set(names)) == len(names),
            f"--base-url lists the same server more than once: {' and '.join(names)}",
            expected="one address per server",
        )
        self._addresses = addresses
        # Two servers may have different weights under the same name, so the servers belong to the identity.
        self.identity: Mapping[str, str] = {"model": self._model, "server": " ".join(names)}

    def after_fork_in_child(self) -> None:
        """Forget requests in progress; called in forked processes, and when the backend is created."""

    @classmethod
    def connect(cls, model: str, options: BackendOptions | None = None) -> Self:
        """Return the backend for a model on the servers whose addresses are in the options, without connecting."""
        options = options or BackendOptions()
        texts = options.base_url if isinstance(options.base_url, tuple) else [options.base_url or ""]
        provider = cls.find_provider(model)
        return cls.over(model, [Address.parse(text, provider) for text in texts], options=options)

    @classmethod
    @abstractmethod
    def find_provider(cls, model: str) -> ServerProvider:
        """Return the provider of the server on which a model runs; raise `UsageError` if the model is missing."""

    @abstractmethod
    async def inspect(self, connection: ServerConnection) -> S:
        """Ask a server for its description, before the first request is sent to it."""

    @abstractmethod
    def context_size_of(self, description: S) -> int:
        """Return the context size in tokens that a server states, or that is assumed."""

    @abstractmethod
    async def answer(self, request: Request) -> Reply:
        """Return the reply to one request; runs on the background loop."""

    def _context_size(self) -> int:
        if self._size is None:
            self._size = run_on_loop(self.client.smallest(self.context_size_of))
        return self._size

    def __reduce__(self) -> tuple[Any, ...]:
        options = {"options": self._options, "sleep": self._sleep, "transport": self._transport}
        return partial(type(self).over, self._model, self._addresses, **options), ()

    @property
    def batch_size(self) -> int:
        default = self.requests_in_flight or 2 * self._concurrency  # so that a slow request leaves no server idle
        return self._options.batch_size or default * len(self._addresses)

    @property
    def costs_money(self) -> bool:
        return not all(address.loopback for address in self._addresses)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order; may be called by several threads, and while an event loop runs.

        At most ``concurrency`` requests run at the same time on each server. Requests to busy or failing servers are
        retried after increasing waits, or after the wait that the server asks for. Raises `BackendError` if no request
        can be answered, and `UsageError` if the context size in the options exceeds that of a server.
        """
        servers = len(self.client.servers)
        limit = (self.requests_in_flight or self._concurrency) * (servers if servers == 1 else 2 * servers)
        return run_on_loop(answer_concurrently(self.answer, requests, limit=limit))

    async def agenerate(self, request: Request) -> Reply:
        """Do the same as `generate` for one request; cancelling the call cancels the HTTP request or the wait."""
        return await await_on_loop(self.answer(request))

    @property
    def client(self) -> ServerClient[S]:
        """The client of the servers; the first access creates it, without connecting."""
        with self._creating.lock:
            if self._client is None:
                from rerank.backends.base.client import ServerClient
                from rerank.backends.base.connection import ServerConnection

                connections = [
                    ServerConnection(
                        address=address,
                        timeout=self._options.timeout or TIMEOUT,
                        retries=self._options.retries,
                        sleep=self._sleep,
                        transport=self._transport,
                        sign=self._sign,
                    )
                    for address in self._addresses
                ]
                self._client = ServerClient(connections, self.inspect, concurrency=self._concurrency, sleep=self._sleep)
            return self._client

    def close(self) -> None:
        """Close the connections; requests in progress fail, and a later request opens new connections."""
        if self._client is not None and self._client.is_open:
            run_on_loop(self._client.aclose())

    async def aclose(self) -> None:
        """Close the connections without blocking; may be called on any event loop."""
        if self._client is not None and self._client.is_open:
            await await_on_loop(self._client.aclose())


def group_of(request: Request) -> tuple[str, str]:
    """Return the key of the requests for a query, whose prompts share a prefix that a server may have cached."""
    return request.window.query.id, request.window.query.text
