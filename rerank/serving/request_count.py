"""ASGI middleware that counts each request when it arrives and when it ends, with the status of its response."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank.serving.disconnects import CLIENT_LEFT_STATUS
from rerank.serving.server_metrics import ServerMetrics

#: Paths that monitoring requests, and that are not counted.
_UNCOUNTED = frozenset({"/health", "/ready", "/metrics"})


class RequestCountMiddleware:
    """Middleware that counts requests, including those refused before they reach an endpoint.

    Args:
        app: The application.
        metrics: The counters.
        paths: Paths of the endpoints; all other paths count as ``other``, so that clients cannot add metric labels.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: Collection[str]) -> None:
        """Store the arguments."""
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count it."""
        if scope["type"] != "http" or scope["path"] in _UNCOUNTED:
            await self._app(scope, receive, send)
            return
        with self._metrics.request(scope["path"] if scope["path"] in self._paths else "other") as status:

            async def send_counted(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] != CLIENT_LEFT_STATUS:
                    status.append(str(message["status"]))
                await send(message)

            await self._app(scope, receive, send_counted)
