"""Any server with OpenAI's interface: vLLM, SGLang, llama.cpp, Ollama, OpenAI itself. Knows no template and no parser.

How to set each of them up, what they can do, and where keys come from: docs/servers.md.
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

if TYPE_CHECKING:  # httpx takes a tenth of a second, which commands without a server need not spend
    from rerank.backends.openai.http import Exchange
    from rerank.backends.openai.sending import Acquaintance

#: Requests under way at a time, where nobody says how many.
CONCURRENCY = 8
#: Seconds that a try may take, where nobody says how many: a long prompt on a processor takes minutes.
TIMEOUT = 600.0
#: Tokens of prompt and reply together, where neither the server nor the user says how many.
CONTEXT = 8192
#: Options that a server has decided for itself.
_LOCAL = ("revision", "adapter", "dtype", "device", "trust_remote_code", "device_map")


class Openai:
    """A model behind an OpenAI-compatible server.

    Nothing is sent before it is needed: the first request, or the first question how long the context is where
    ``context_size`` is not given, asks the server what it is.

    Args:
        model: The model's name on the server.
        address: The server.
        options: Concurrency, time limit, batch and context size are used; None takes the defaults.
        sleep: How to wait between tries, for tests.
        transport: Instead of the network, for tests.

    Raises:
        UsageError: An option that a server decides for itself.
    """

    answers: ClassVar[frozenset[type[Any]]] = frozenset({GenerationTask, PermutationTask, ContinuationTask})

    def __init__(
        self,
        model: str,
        address: Address,
        *,
        options: BackendOptions | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transport: Any = None,
    ) -> None:
        """Keep what is given; see `connect`."""
        self._model = model
        self._address = address
        self._options = options or BackendOptions()
        _check(self._options)
        self._concurrency = self._options.concurrency or CONCURRENCY
        self._sleep, self._transport = sleep, transport
        self._tokens = EstimatedTokens(self._context_size)
        self._met: Acquaintance | None = None
        self._size: int | None = None

    @classmethod
    def connect(cls, model: str, options: BackendOptions | None = None) -> Openai:
        """Make the backend of ``--model openai:MODEL``; connects to nothing yet.

        Raises:
            UsageError: No model, no address of a server, or an option that a server decides for itself.
        """
        options = options or BackendOptions()
        if not model:
            raise UsageError("--model openai: names no model", expected="openai:NAME, as the server lists it")
        return cls(model, Address.parse(options.base_url), options=options)

    @property
    def identity(self) -> Mapping[str, str]:
        """The model's name, and the server: two servers may have different weights under one name."""
        return {"model": self._model, "server": self._address.name}

    @property
    def tokens(self) -> TokenCounter:
        """Estimates, too high rather than too low."""
        return self._tokens

    @property
    def batch_size(self) -> int:
        """Twice the requests under way, so that a slow one does not leave the server idle."""
        return self._options.batch_size or 2 * self._concurrency

    @property
    def costs_money(self) -> bool:
        """Whether it is another machine."""
        return not self._address.loopback

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer all requests, in order; also where an event loop is running already.

        So many are under way at a time as ``concurrency`` says. Busy and failing servers are asked again, with growing
        waits or those that they ask for. What stays without an answer is a reply with ``finish="error"``.

        Raises:
            BackendError: Nothing can be answered: no server, no such model, a rejected key, no credit.
            UsageError: A context size beyond the server's.
        """
        from rerank.backends.openai.http import run

        if not requests:
            return []
        started = time.perf_counter()
        replies = run(self._answer(requests))
        seconds = (time.perf_counter() - started) / len(requests)
        return [replace(reply, seconds=seconds) for reply in replies]

    async def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        async with self._exchange() as exchange:
            from rerank.backends.openai.sending import failed

            met = await self._meet(exchange)
            exchange.forget()
            gate = asyncio.Semaphore(self._concurrency)

            hopeless: list[BackendError] = []
            answered = False

            async def answer(request: Request) -> Reply:
                nonlocal answered
                async with gate:
                    if hopeless and not answered:
                        return failed(str(hopeless[0]))
                    try:
                        reply = await met.ask(exchange, request)
                    except BackendError as error:
                        hopeless.append(error)
                        return failed(str(error))
                    answered = answered or reply.finish != "error"
                    return reply

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(answer(request)) for request in requests]
            except ExceptionGroup as failures:  # the first ended the others
                raise failures.exceptions[0] from None
        replies = [task.result() for task in tasks]
        if hopeless and not answered:  # what was answered, and perhaps paid for, is not thrown away
            raise hopeless[0]
        if exchange.reached is False:
            gone = next(reply.error for reply in replies if reply.error)
            raise BackendError(gone, remedy="Start the server again, then pass --resume; committed calls are kept")
        return replies

    def _exchange(self) -> Exchange:
        from rerank.backends.openai.http import Exchange

        timeout = self._options.timeout or TIMEOUT
        return Exchange(
            address=self._address,
            timeout=timeout,
            sleep=self._sleep,
            transport=self._transport,
            known=self._met is not None,
        )

    async def _meet(self, exchange: Exchange) -> Acquaintance:
        """Ask the server what it is, the first time."""
        from rerank.backends.openai.dialect import Dialect
        from rerank.backends.openai.sending import Acquaintance
        from rerank.backends.openai.server import look

        if self._met is None:
            server = await look(exchange, self._model)
            asked, has = self._options.context_size, server.context_size
            if asked and has and asked > has:
                raise UsageError(
                    f"--context-size {asked}", expected=f"at most {has}, which is what {self._address.url} says it has"
                )
            self._met = Acquaintance(server=server, dialect=Dialect(kind=server.kind, model=self._model))
        return self._met

    async def _introduce(self) -> Acquaintance:
        async with self._exchange() as exchange:
            return await self._meet(exchange)

    def _context_size(self) -> int:
        from rerank.backends.openai.http import run

        if self._size is None:
            self._size = self._options.context_size or run(self._introduce()).server.context_size
        if self._size is None:
            self._size = CONTEXT
            warnings.warn(
                f"{self._address.url} does not say how long the context of {self._model!r} is: {CONTEXT} tokens are "
                "assumed; say it with --context-size",
                stacklevel=2,
            )
        return self._size


def _check(options: BackendOptions) -> None:
    """Refuse options that would be without effect."""
    for option in fields(BackendOptions):
        if option.name in _LOCAL and getattr(options, option.name) != option.default:
            raise UsageError(
                f"--{option.name.replace('_', '-')} {getattr(options, option.name)} with a model behind a server",
                expected="no such option: the server was started with one of its own",
                remedy="Leave it out; a server lists adapters as models of their own",
            )
