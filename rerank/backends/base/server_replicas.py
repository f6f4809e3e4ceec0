"""A backend that distributes requests over several servers with the same model."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rerank.backends.base.server_backend import ServerBackend
from rerank.backends.base.server_replies import ServerUnavailableError
from rerank.backends.base.server_routing import RoutedServer, ServerRouter
from rerank.errors import BackendError, UsageError
from rerank.io.forks import watch_forks
from rerank.prompts.base import TokenCounter
from rerank.tasks import BackendOptions, Reply, Request
from rerank.tasks.backends import BaseBackend
from rerank.tasks.background_loop import await_on_task_request_loop, run_on_task_request_loop
from rerank.tasks.concurrent_replies import answer_task_requests_concurrently


def connect_servers(backend_type: Any, model: str, options: BackendOptions) -> Any:
    """Return the backend for a model on one server, or on several servers, without connecting.

    Args:
        backend_type: The class of the backend, which has a method ``connect``.
        model: Name of the model on the servers.
        options: The options, whose ``base_url`` may be a tuple.

    Raises:
        UsageError: The backend supports one server only, or one of the addresses or an option is invalid.
    """
    if not isinstance(options.base_url, tuple):
        return backend_type.connect(model, options)
    if not issubclass(backend_type, ServerBackend):
        raise UsageError(
            f"--base-url contains {len(options.base_url)} addresses", expected="one address, for this backend"
        )
    backends = [
        backend_type.connect(model, options.model_copy(update={"base_url": address})) for address in options.base_url
    ]
    return ServerReplicas(backends, options)


class ServerReplicas(BaseBackend):
    """A backend that uses several servers with the same model. `ServerRouter` decides which server receives a request.

    - A request that a server does not answer (no connection, a timeout, status 429 or 5xx, and so on) is sent to
      another server at once. While no other server works, it is repeated by the rules for one server.
    - A server that did not answer a request then rests: it receives no requests for a second, and twice as long after
      every failed check, up to half a minute. A check is a cheap request. A reply from the server to any request ends
      its rest period.
    - A request that a server rejects as invalid is not sent to another one.

    Args:
        backends: One backend per server, for the same model.
        options: Backend options of all servers together; None for the defaults. Only batch size, context size and
            retries have an effect.
        sleep: Function that waits between checks; replaced in tests.

    Raises:
        UsageError: Two of the addresses belong to the same server.
    """

    def __init__(
        self,
        backends: Sequence[ServerBackend[Any]],
        options: BackendOptions | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Check that the servers differ, without connecting to them."""
        self._backends, self._options, self._sleep = tuple(backends), options or BackendOptions(), sleep
        first, names = self._backends[0], sorted(backend.identity["server"] for backend in backends)
        if len(set(names)) < len(names):
            raise UsageError(
                f"--base-url lists the same server more than once: {' and '.join(names)}",
                expected="one address per server",
            )
        self.identity: Mapping[str, str] = {**first.identity, "server": " ".join(names)}
        self.tasks = first.tasks
        self.takes_verbatim = first.takes_verbatim
        self.default_method = first.default_method
        self.tokens: TokenCounter = first.make_tokens(self._context_size)
        self._size = self._options.context_size
        self._slots = [backend.slots for backend in self._backends]
        self._start_routing()
        watch_forks(self)
        for position, backend in enumerate(self._backends):
            backend.has_other_server = partial(self._has_other, position)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the servers without their state: another process has its own requests and checks servers itself."""
        return partial(ServerReplicas, self._backends, self._options, sleep=self._sleep), ()

    def after_fork_in_child(self) -> None:
        """Forget the requests that were in progress before the fork, whose replies arrive in the parent process."""
        self._start_routing()

    def _start_routing(self) -> None:
        self._router = ServerRouter(self._slots)
        self._checks: dict[int, asyncio.Task[None]] = {}
        self._failures: dict[int, ServerUnavailableError] = {}
        self._warned: set[int] = set()

    def _has_other(self, position: int) -> bool:
        return self._router.has_other(position)

    @property
    def batch_size(self) -> int:
        """Batch size in the options; by default the sum of the servers' batch sizes."""
        return self._options.batch_size or sum(backend.batch_size for backend in self._backends)

    @property
    def costs_money(self) -> bool:
        """Whether calls may cost money: true if one of the servers is on another machine."""
        return any(backend.costs_money for backend in self._backends)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order; may be called by several threads, and while an event loop runs.

        Raises:
            BackendError: No request can be answered: no server, no such model, a rejected key, no credit.
            UsageError: The context size in the options exceeds that of a server.
        """
        answers = answer_task_requests_concurrently(self._answer, requests, limit=2 * sum(self._slots))
        return run_on_task_request_loop(answers)

    async def agenerate(self, request: Request) -> Reply:
        """Return the reply to one request. It may be called on any event loop and by several callers at the same time.

        At most ``concurrency`` requests run at the same time on each server; the others wait. Cancelling the call
        cancels the HTTP request, or the wait.

        Raises:
            BackendError: No request can be answered: no server, no such model, a rejected key, no credit.
            UsageError: The context size in the options exceeds that of a server, or a server lacks a capability.
        """
        return await await_on_task_request_loop(self._answer(request))

    def close(self) -> None:
        """Close the connections to all servers; requests in progress fail, and a later request reconnects."""
        if self._checks:
            run_on_task_request_loop(self._end_checks())
        for backend in self._backends:
            backend.close()

    async def aclose(self) -> None:
        """Close the connections to all servers without blocking; may be called on any event loop."""
        if self._checks:
            await await_on_task_request_loop(self._end_checks())
        for backend in self._backends:
            await backend.aclose()

    async def _answer(self, request: Request) -> Reply:
        """Return the reply of the first server that answers; runs on the background loop.

        Raises:
            BackendError: No server can be reached, or a server refuses all requests.
        """
        failures, attempts, seconds = 0, 0, 0.0
        while True:
            server = await self._router.acquire((request.window.query.id, request.window.query.text))
            started = time.perf_counter()
            try:
                reply = await self._backends[server.position].agenerate(request)
                self._failures.pop(server.position, None)
                self._router.end_rest(server)
                return replace(reply, retries=reply.retries + attempts, seconds=reply.seconds + seconds)
            except ServerUnavailableError as error:
                failures, attempts = failures + 1, attempts + error.attempts
                seconds += time.perf_counter() - started
                self._let_rest(server, error)
                tries = error.tries if self._options.retries is None else 1 + self._options.retries
                if not self._router.has_other(server.position) or failures >= max(tries, len(self._backends)):
                    return self._failed_reply()
            finally:
                self._router.release(server)

    def _failed_reply(self) -> Reply:
        """Return the error reply to a request that no server has answered.

        Raises:
            BackendError: There is no connection to any server.
        """
        error = self._no_server_error()
        silent = [failure for failure in self._failures.values() if failure.is_silent]
        if len(silent) == len(self._backends) and all(server.pause for server in self._router.servers):
            raise error
        return Reply(finish="error", error=error.found)

    def _no_server_error(self) -> BackendError:
        failures = [f"{self._name(position)} ({self._failures[position].found})" for position in sorted(self._failures)]
        return BackendError(
            f"No server answered: {'; '.join(failures)}",
            remedy="Check the addresses and the network, or start the servers; --resume keeps committed calls",
        )

    def _name(self, position: int) -> str:
        return self._backends[position].identity["server"]

    def _let_rest(self, server: RoutedServer, failure: ServerUnavailableError) -> None:
        """Send no requests to a server, and check it at increasing intervals as long as there are requests."""
        self._failures[server.position] = failure
        self._router.rest(server)
        check = self._checks.get(server.position)
        if check is None or check.done():
            self._checks[server.position] = asyncio.create_task(self._check_until_up(server))
        if server.position not in self._warned and self._has_other(server.position):
            self._warned.add(server.position)
            warnings.warn(
                f"The server {self._name(server.position)} does not answer ({failure.found}); its requests go to the "
                "other servers until it does",
                stacklevel=2,
            )

    async def _check_until_up(self, server: RoutedServer) -> None:
        while server.pause:
            await self._sleep(server.pause)
            # Without requests, the checks of a server that stays down would never end, so the next request tries it.
            if self._router.is_idle or await self._backends[server.position].get_client().connection.is_up():
                self._router.end_rest(server)
            else:
                self._router.extend_rest(server)

    async def _end_checks(self) -> None:
        for position, check in list(self._checks.items()):
            check.cancel()
            self._router.end_rest(self._router.servers[position])

    def _context_size(self) -> int:
        """Return the context size in the options or, if None, the smallest context size of the servers.

        The first call requests the context sizes from the servers.
        """
        if self._size is None:
            self._size = run_on_task_request_loop(self._find_smallest_context_size())
        return self._size

    async def _find_smallest_context_size(self) -> int:
        sizes: dict[str, int] = {}
        for server, backend in zip(self._router.servers, self._backends, strict=True):
            try:
                sizes[self._name(server.position)] = await backend.find_context_size()
            except ServerUnavailableError as error:
                self._let_rest(server, error)
        if not sizes:
            raise self._no_server_error()
        if len(set(sizes.values())) > 1:
            stated = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            warnings.warn(f"The servers have different context sizes ({stated}); the smallest is used", stacklevel=2)
        return min(sizes.values())
