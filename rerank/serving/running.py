"""Serving of an application with uvicorn until a signal stops the server."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from rerank.errors import UsageError
from rerank.serving.connection_limit import limited_http_protocol
from rerank.tasks.background_loop import run_on_task_request_loop

_LOG = logging.getLogger(__name__)

#: Seconds that a stopping server has to finish accepted requests.
GRACE = 30
#: Further seconds in which the remaining requests receive 503, before their connections are closed.
_LAST_ANSWERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Address on which a server accepts connections, and its connection options.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free port.
        max_connections: Maximum number of open connections.
        logs_requests: Whether to log one line per request, without text of queries or documents.
        trusts_proxy: Whether to take client addresses from the header X-Forwarded-For of a proxy on this machine.
    """

    host: str = "127.0.0.1"
    port: int = 0
    max_connections: int = 512
    logs_requests: bool = False
    trusts_proxy: bool = False

    def open_socket(self) -> socket.socket:
        """Return a socket that listens on the address."""
        try:
            family, *_, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        except (socket.gaierror, UnicodeError) as error:
            raise UsageError(
                f"The host {self.host!r} cannot be resolved: {getattr(error, 'strerror', error)}",
                expected="an address or a name of this machine",
                remedy="Pass --host 127.0.0.1 for clients on this machine, or --host 0.0.0.0 for the network",
            ) from error
        try:
            listening = socket.create_server(address, family=family, backlog=2048)
        except OSError as error:
            is_foreign = error.errno == errno.EADDRNOTAVAIL
            raise UsageError(
                f"Cannot listen on {self.host}:{self.port}: {error.strerror or error}",
                expected="an address of this machine" if is_foreign else "a free port of this machine",
                remedy="Pass another --host" if is_foreign else "Pass another --port; 0 picks a free port",
            ) from error
        # Connections inherit this option. asyncio sets it only for sockets that name their protocol; without it, the
        # body of a response would wait up to 40 ms until the client has acknowledged the head.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening


class _AnnouncingServer(uvicorn.Server):
    """A server that reports its address once it accepts requests, and responds to accepted requests before it stops."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None], app: Starlette, grace: float) -> None:
        super().__init__(config)
        self._announce, self._app, self._grace = announce, app, grace
        self._loop: asyncio.AbstractEventLoop | None = None
        self.last_signal: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # loaded objects stay, so garbage collections during requests need not traverse them
        if self.started and self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finish accepted requests after the first signal, and end them with 503 after the second signal."""
        stop = self._answer_at_once if self.should_exit else self._report_unfinished
        super().handle_exit(sig, frame)
        self.last_signal = sig
        self.force_exit = False  # a forced exit would leave requests without a response
        if self._loop is not None:  # signals arrive in the main thread and may interrupt anything, even logging
            self._loop.call_soon_threadsafe(stop)

    def _report_unfinished(self) -> None:
        if count := len(self.server_state.tasks):
            requests = "1 request" if count == 1 else f"{count} requests"
            _LOG.warning("Finishing %s within %g s; a second signal stops the server at once", requests, self._grace)

    def _answer_at_once(self) -> None:
        self._app.state.is_hurried = True
        self._end_requests()

    def _end_requests(self) -> None:
        for task in self.server_state.tasks:
            task.cancel()  # `UnexpectedErrorMiddleware` answers 503

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(self._grace, self._end_requests)
        await super().shutdown(sockets)


def run_server(app: Starlette, listener: Listener, *, announce: Callable[[str], None], grace: int = GRACE) -> None:
    """Serve an application until SIGTERM or SIGINT; then finish accepted requests. A second signal ends these at once.

    If the model is still processing a batch at the end, the signal ends the process without Python's finalizers.

    Args:
        app: The application, which must have the middleware `UnexpectedErrorMiddleware`.
        listener: Address and connection options of the server.
        announce: Function called with the server's URL once the server accepts requests.
        grace: Seconds that the stopping server has to finish accepted requests.
    """
    sock = listener.open_socket()
    config = uvicorn.Config(
        app,
        http=limited_http_protocol(listener.max_connections),
        ws="none",
        log_level="warning",
        access_log=listener.logs_requests,
        proxy_headers=listener.trusts_proxy,
        timeout_graceful_shutdown=grace + _LAST_ANSWERS,
        lifespan="on",
    )
    if listener.logs_requests:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)  # the level above is that of all loggers
    server = _AnnouncingServer(config, announce, app, grace)
    # Requests to remote models run on the background loop. The server runs there too, so that its rankings never switch
    # threads. Signals reach only the main thread.
    with sock, server.capture_signals():
        run_on_task_request_loop(server.serve(sockets=[sock]))
        if server.last_signal is not None and getattr(app.state, "is_model_busy", False):
            # Python's shutdown would force the native code of the batch to end its thread, which aborts the process.
            signal.signal(server.last_signal, signal.SIG_DFL)
            signal.raise_signal(server.last_signal)
