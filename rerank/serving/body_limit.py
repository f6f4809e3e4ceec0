"""An ASGI wrapper that refuses request bodies above a limit, before they are in memory."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank.serving.api_errors import ApiError, error_response


class BodyLimit:
    """Answers 413 if a body is larger than allowed, also if it does not state its length.

    Args:
        app: The application; it must answer an `HTTPException` that reading a body raises.
        max_bytes: Maximum size of a body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Store the arguments."""
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        message = f"The body is too large; expected at most {self._max_bytes} bytes"
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            # The body is not read, so the connection cannot be used again.
            error = ApiError(413, message, {"Connection": "close"})
            await error_response(Request(scope), error)(scope, receive, send)
            return
        read = 0

        async def receive_bounded() -> Message:
            nonlocal read
            received = await receive()
            if received["type"] == "http.request":
                read += len(received.get("body", b""))
                if read > self._max_bytes:
                    raise HTTPException(413, message, {"Connection": "close"})
            return received

        await self._app(scope, receive_bounded, send)
