"""The backend ``openai``: models behind a server with OpenAI's interface (vLLM, SGLang, llama.cpp, Ollama, OpenAI).

docs/servers.md describes the servers, their capabilities and the keys.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.backends.openai.address import Address
from rerank.backends.openai.token_estimate import EstimatedTokens
from rerank.errors import BackendError, UsageError
from rerank.prompts.base import TokenCounter
from rerank.tasks import BackendOptions, ContinuationTask, GenerationTask, PermutationTask, Reply, Request

if TYPE_CHECKING:  # importing httpx takes 0.1 s, which commands without a server should not spend
    from rerank.backends.openai.http import ServerConnection
    from rerank.backends.openai.sending import ServerSession

#: Default number of simultaneous requests.
CONCURRENCY = 8
#: Default time limit of an attempt, in seconds; a long prompt on a CPU takes minutes.
TIMEOUT = 600.0
#: Context size in tokens, if neither the server nor the user states it.
CONTEXT = 8192
#: Options that are decided when the server is started.
_LOCAL = ("revision", "adapter", "dtype", "device", "trust_remote_code", "device_map")


class Openai:
    """A backend for a model behind an OpenAI-compatible server.

    The server is not contacted before the first request, or before the context size is needed and not given.

    Args:
        model: The model's name on the server.
        address: The address of the server.
        options: Concurrency, timeout, batch size and context size are used; None takes the defaults.
        sleep: Waits between attempts, for tests.
        transport: Replacement of the network, for tests.

    Raises:
        UsageError: An option can only be set when the server is started.
    """

    tasks: ClassVar[frozenset[type[Any]]] = frozenset({GenerationTask, PermutationTask, ContinuationTask})

    def __init__(
        self,
        model: str,
        address: Address,
        *,
        options: BackendOptions | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: Any = None,
    ) -> None:
        """Check the options, without connecting."""
        self._model = model
        self._address = address
        self._options = options or BackendOptions()
        _check(self._options)
        self._concurrency = self._options.concurrency or CONCURRENCY
        self._sleep, self._transport = sleep, transport
        self._tokens = EstimatedTokens(self._context_size)
        self._session: ServerSession | None = None
        self._size: int | None = None

    @classmethod
    def connect(cls, model: str, options: BackendOptions | None = None) -> Openai:
        """Return the backend of ``--model openai:MODEL``, without connecting.

        Raises:
            UsageError: The model is missing, the address is invalid, or an option can only be set when the server is
                started.
        """
        options = options or BackendOptions()
        if not model:
            raise UsageError(
                "--model openai: names no model", expected="openai:NAME, with a name that the server lists"
            )
        return cls(model, Address.parse(options.base_url), options=options)

    @property
    def identity(self) -> Mapping[str, str]:
        """The model's name and the server, since two servers may have different weights under one name."""
        return {"model": self._model, "server": self._address.name}

    @property
    def tokens(self) -> TokenCounter:
        """A token counter that estimates, too high rather than too low."""
        return self._tokens

    @property
    def batch_size(self) -> int:
        """Twice the number of simultaneous requests, so that a slow request does not leave the server idle."""
        return self._options.batch_size or 2 * self._concurrency

    @property
    def costs_money(self) -> bool:
        """Whether the server is on another machine."""
        return not self._address.loopback

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order; may be called while an event loop runs.

        At most ``concurrency`` requests run at the same time. Requests to busy or failing servers are retried, with
        growing waits or those that the server asks for. A request without an answer gets a reply with
        ``finish="error"``.

        Raises:
            BackendError: No request can be answered: no server, no such model, a rejected key, no credit.
            UsageError: The context size exceeds the server's.
        """
        from rerank.backends.openai.http import run_coroutine

        if not requests:
            return []
        started = time.perf_counter()
        replies = run_coroutine(self._send_all(requests))
        seconds = (time.perf_counter() - started) / len(requests)
        return [replace(reply, seconds=seconds) for reply in replies]

    async def _send_all(self, requests: Sequence[Request]) -> list[Reply]:
        from rerank.backends.openai.sending import make_failed_reply

        async with self._connection() as connection:
            session = await self._get_session(connection)
            connection.forget()
            semaphore = asyncio.Semaphore(self._concurrency)
            fatal: list[BackendError] = []  # errors that concern all requests
            has_reply = False

            async def send(request: Request) -> Reply:
                nonlocal has_reply
                async with semaphore:
                    if fatal and not has_reply:
                        return make_failed_reply(str(fatal[0]))
                    try:
                        reply = await session.ask(connection, request)
                    except BackendError as error:
                        fatal.append(error)
                        return make_failed_reply(str(error))
                    has_reply = has_reply or reply.finish != "error"
                    return reply

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(send(request)) for request in requests]
            except ExceptionGroup as failures:  # the first exception has cancelled the other tasks
                raise failures.exceptions[0] from None
        replies = [task.result() for task in tasks]
        if fatal and not has_reply:  # replies that exist, and may have cost money, are returned
            raise fatal[0]
        if connection.reached is False:
            message = next(reply.error for reply in replies if reply.error)
            raise BackendError(message, remedy="Start the server again, then use --resume; committed calls are kept")
        return replies

    def _connection(self) -> ServerConnection:
        from rerank.backends.openai.http import ServerConnection

        timeout = self._options.timeout or TIMEOUT
        return ServerConnection(
            address=self._address,
            timeout=timeout,
            sleep=self._sleep,
            transport=self._transport,
            known=self._session is not None,
        )

    async def _get_session(self, connection: ServerConnection) -> ServerSession:
        """Return the session; the first call inspects the server."""
        from rerank.backends.openai.dialect import Dialect
        from rerank.backends.openai.sending import ServerSession
        from rerank.backends.openai.server import inspect_server

        if self._session is None:
            server = await inspect_server(connection, self._model)
            requested, available = self._options.context_size, server.context_size
            if requested and available and requested > available:
                raise UsageError(
                    f"--context-size {requested}",
                    expected=f"at most {available}, the context size of {self._address.url}",
                )
            self._session = ServerSession(server=server, dialect=Dialect(kind=server.kind, model=self._model))
        return self._session

    async def _open_session(self) -> ServerSession:
        async with self._connection() as connection:
            return await self._get_session(connection)

    def _context_size(self) -> int:
        from rerank.backends.openai.http import run_coroutine

        if self._size is None:
            self._size = self._options.context_size or run_coroutine(self._open_session()).server.context_size
        if self._size is None:
            self._size = CONTEXT
            warnings.warn(
                f"{self._address.url} does not state the context size of {self._model!r}; {CONTEXT} tokens are "
                "assumed. Set it with --context-size",
                stacklevel=2,
            )
        return self._size


def _check(options: BackendOptions) -> None:
    """Refuse options that would have no effect."""
    for option in fields(BackendOptions):
        if option.name in _LOCAL and getattr(options, option.name) != option.default:
            raise UsageError(
                f"--{option.name.replace('_', '-')} {getattr(options, option.name)} with a model behind a server",
                expected="no such option, since it is set when the server is started",
                remedy="Omit it; a server lists adapters as separate models",
            )
