"""ASGI middleware that rejects request bodies above a size limit before they are held in memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank.serving.api_errors import ApiError, error_response

#: Limits on reading and discarding a body that is too large: bytes as a multiple of the size limit, and seconds. Most
#: clients read a response only after they have sent the whole body, and would otherwise report a broken connection.
_DROPPED_LIMITS, _DROPPING = 10, 20.0


class BodyLimitMiddleware:
    """Middleware that responds with 413 if a body is larger than allowed, even without a header Content-Length.

    Args:
        app: The application; it must handle an `HTTPException` raised while it reads a body.
        max_bytes: Maximum size of a body, in bytes.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Store the arguments."""
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or respond with 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        message = f"The body is too large; expected at most {self._max_bytes} bytes"
        headers = {"Connection": "close"}
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            await self._drop_body(receive)
            await error_response(Request(scope), ApiError(413, message, headers))(scope, receive, send)
            return
        read = 0

        async def receive_bounded() -> Message:
            nonlocal read
            received = await receive()
            if received["type"] == "http.request":
                read += len(received.get("body", b""))
                if read > self._max_bytes:
                    if received.get("more_body", False):
                        await self._drop_body(receive)
                    raise HTTPException(413, message, headers)
            return received

        await self._app(scope, receive_bounded, send)

    async def _drop_body(self, receive: Receive) -> None:
        """Discard the rest of a body, up to a limit of size and time, so that the client reads the response."""
        dropped = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DROPPING):
                while dropped < _DROPPED_LIMITS * self._max_bytes:
                    received = await receive()
                    dropped += len(received.get("body", b""))
                    if not received.get("more_body", False):
                        return
