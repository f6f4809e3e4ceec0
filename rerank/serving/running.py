"""Running the application with uvicorn until a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from rerank.errors import UsageError
from rerank.tasks.background_loop import run_on_task_request_loop

#: Seconds for which a stopping server finishes accepted requests.
GRACE = 30
#: Seconds after them in which the remaining requests are answered with 503, before their connections are closed.
_LAST_ANSWERS = 3


class _AnnouncingServer(uvicorn.Server):
    """A server that reports its address once it accepts requests, and answers all of them before it stops."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None], app: Starlette, grace: float) -> None:
        super().__init__(config)
        self._announce, self._grace = announce, grace
        #: Set when accepted requests are no longer waited for; only the application of `create_server_app` has it.
        self._stopping: asyncio.Event | None = getattr(app.state, "stopping", None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._stopping is not None:
            asyncio.get_running_loop().call_later(self._grace, self._stopping.set)
        await super().shutdown(sockets)


def run_server(
    app: Starlette,
    *,
    host: str,
    port: int,
    announce: Callable[[str], None],
    logs_requests: bool = False,
    trusts_proxy: bool = False,
    grace: int = GRACE,
) -> None:
    """Serve an application until SIGTERM or SIGINT; then finish accepted requests.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        announce: Called with the server's address once it accepts requests.
        logs_requests: Whether to log one line per request; it contains no text of queries or documents.
        trusts_proxy: Whether addresses of clients are taken from X-Forwarded-For of a proxy on this machine.
        grace: Seconds for which a stopping server finishes accepted requests.

    Raises:
        UsageError: The address cannot be used.
    """
    try:
        sock = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}",
            expected="a free port of this machine",
            remedy="Pass another --port; 0 picks a free one",
        ) from error
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=logs_requests,
        proxy_headers=trusts_proxy,
        timeout_graceful_shutdown=grace + _LAST_ANSWERS,
        lifespan="on",
    )
    if logs_requests:
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)  # the level above is that of all loggers
    server = _AnnouncingServer(config, announce, app, grace)
    # Requests to models behind a network run on the background loop. The server runs there too, so that none of its
    # rankings changes threads. Signals reach only the main thread.
    with sock, server.capture_signals():
        run_on_task_request_loop(server.serve(sockets=[sock]))
