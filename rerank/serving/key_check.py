"""ASGI middleware that checks the keys of clients before a request body is read."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from rerank.serving.api_errors import ApiError, error_response
from rerank.serving.server_keys import ServerKeys

#: Paths that need no key: they reveal only whether the server runs, or return static files of the playground.
OPEN_PATHS = frozenset({"/", "/health", "/ready", "/playground.css", "/playground.js"})


class KeyCheckMiddleware:
    """Middleware that responds with 401 if a required key is missing or wrong.

    Otherwise, it stores the client's name in ``request.state.client``.

    Args:
        app: The application.
        keys: Keys that clients may use; if there are none, no key is required.
    """

    def __init__(self, app: ASGIApp, keys: ServerKeys) -> None:
        """Store the arguments."""
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or respond with 401."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        address = request.client.host if request.client else ""
        client = self._keys.client(request.headers.get("authorization", ""), address)
        if client is None and scope["path"] not in OPEN_PATHS:
            error = ApiError(
                401, "The key is missing or wrong; expected Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )
            await error_response(request, error)(scope, receive, send)
            return
        request.state.client = client or address
        await self._app(scope, receive, send)
