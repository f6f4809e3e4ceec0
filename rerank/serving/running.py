"""Serving of an application with uvicorn until a signal stops the server, with limits on connections and heads."""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rerank.errors import UsageError
from rerank.serving import errors
from rerank.serving.middleware import JsonLogMiddleware
from rerank.tasks.concurrency import run_on_loop

_LOG = logging.getLogger(__name__)

GRACE = 30  #: Seconds that a stopping server has to finish accepted requests.
#: Further seconds in which the remaining requests receive 503, before their connections are closed.
_LAST_ANSWERS = 3
#: Seconds after a signal until the requests that still run are reported.
_MOMENT = 0.5
_RETRY_AFTER = 1  #: Seconds after which a client above the limit should try again.
#: Seconds that a refused connection stays open: many clients read a response only after sending the whole request.
_REFUSING = 1.0
_LOG_INTERVAL = 60.0  #: Minimum number of seconds between two log messages about refused connections.
#: Maximum number of bytes of a request's head, and of what surrounds its body (chunk sizes, trailers) between two
#: pieces of the body, not counting those that arrived together with its beginning.
_MAX_HEAD = 65_536
#: Seconds between checks whether a client that has ended its side of a connection still reads.
_CHECKING = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Address on which a server accepts connections, and its connection options."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 picks a free port
    max_connections: int = 512
    #: Form of the line per request: uvicorn's text, or a JSON object (`JsonLogMiddleware`).
    access_log: Literal["none", "text", "json"] = "none"
    #: Whether to take client addresses from the header X-Forwarded-For of a proxy on this machine.
    trusts_proxy: bool = False

    def open_socket(self) -> socket.socket:
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
        # The task of a request that has its response may need a moment to end.
        asyncio.get_running_loop().call_later(_MOMENT, self._report_requests)

    def _report_requests(self) -> None:
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

    If the model is still processing a batch at the end, the signal ends the process without Python's finalizers. The
    application must have the middleware `UnexpectedErrorMiddleware`.
    """
    if listener.access_log == "json":
        app.add_middleware(JsonLogMiddleware)
    sock = listener.open_socket()
    config = uvicorn.Config(
        app,
        http=limited_http_protocol(listener.max_connections),
        ws="none",
        log_level="warning",
        access_log=listener.access_log == "text",
        proxy_headers=listener.trusts_proxy,
        timeout_graceful_shutdown=grace + _LAST_ANSWERS,
        lifespan="on",
    )
    if listener.access_log == "text":
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)  # the level above is that of all loggers
    server = _AnnouncingServer(config, announce, app, grace)
    # Requests to remote models run on the background loop. The server runs there too, so that its rankings never switch
    # threads. Signals reach only the main thread.
    with sock, server.capture_signals():
        run_on_loop(server.serve(sockets=[sock]))
        if server.last_signal is not None and getattr(app.state, "is_model_busy", False):
            # Python's shutdown would force the native code of the batch to end its thread, which aborts the process.
            signal.signal(server.last_signal, signal.SIG_DFL)
            signal.raise_signal(server.last_signal)


def limited_http_protocol(limit: int) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol class for one server, with limits on open connections and on request heads.

    Uvicorn's own ``limit_concurrency`` leaves connections open and refuses the requests of all of them. Here, only
    connections above the limit are refused with 503. At most ``limit`` refused connections stay open until the client
    has read this response; further connections are closed without a response.
    """
    refused: set[asyncio.Protocol] = set()
    next_message = 0.0

    class LimitedProtocol(HttpToolsProtocol):
        is_in_head = is_in_request = False
        unused_bytes = 0  #: Bytes received since the head of the request began, or since the last piece of its body.

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            nonlocal next_message
            if len(self.connections) < limit:
                super().connection_made(transport)
                return
            if time.monotonic() >= next_message:
                next_message = time.monotonic() + _LOG_INTERVAL
                _LOG.warning("%d connections are open; further ones are refused with 503 (--max-connections)", limit)
            if len(refused) < limit:
                transport.set_protocol(_RefusedConnection(transport, refused))
            else:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            if self.transport is not None:  # else it was aborted above
                super().connection_lost(exc)

        def eof_received(self) -> bool:  # type: ignore[override]  # true keeps the connection open for the answer
            if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
                return False
            self.cycle.keep_alive = False
            if not self.cycle.response_started and self.scope["http_version"] == "1.1":
                # A client that has closed its connection refuses further data; one that waits skips this line.
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._abort_if_refused()
            return True

        def _abort_if_refused(self) -> None:
            """Abort the connection once its client has refused data: nothing else reports it after the client's end."""
            if self.transport.is_closing():
                return
            with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as connection:
                error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.transport.abort()
            else:
                asyncio.get_running_loop().call_later(_CHECKING, self._abort_if_refused)

        def on_message_begin(self) -> None:
            self.is_in_head = self.is_in_request = True
            self.unused_bytes = 0
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            if self.is_in_head:  # else it is a trailer, which nothing reads
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self.is_in_head = False
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self.unused_bytes = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self.is_in_request = False
            super().on_message_complete()

        def data_received(self, data: bytes) -> None:
            self.unused_bytes += len(data) if self.is_in_request else 0
            super().data_received(data)
            if self.is_in_request and self.unused_bytes > _MAX_HEAD and not self.transport.is_closing():
                if self.is_in_head or not self.cycle.response_started:  # httptools would store a head of any size
                    self.send_400_response(f"The head or the trailers of the request exceed {_MAX_HEAD} bytes.")
                self.transport.close()

    return LimitedProtocol


class _RefusedConnection(asyncio.Protocol):
    """A connection that receives 503 before its request is parsed."""

    def __init__(self, transport: asyncio.Transport, refused: set[Any]) -> None:
        self._transport, self._refused = transport, refused
        self._end = asyncio.get_running_loop().call_later(_REFUSING, transport.close)
        self._is_answered = False
        refused.add(self)

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        self._is_answered = True
        error = errors.ApiError(503, "Too many connections are open; try again later")
        body = errors.body_of(error, "").model_dump_json().encode()
        self._transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\nRetry-After: %d\r\n\r\n%b" % (len(body), _RETRY_AFTER, body)
        )
        self._transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._refused.discard(self)
