"""Responses to requests that no error handler covers: 500 and a log record without texts, or 503 if cancelled."""

from __future__ import annotations

import asyncio
import logging
import traceback

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank.serving.api_errors import api_error_from_exception, error_response, server_stopping_error

_LOG = logging.getLogger(__name__)


def log_unexpected_error(what: str, error: BaseException) -> None:
    """Log the types and stack frames of an error and its causes, without messages, which may contain documents.

    Args:
        what: The operation that failed, as the subject of the log message, such as ``A tool``.
        error: The exception to log.
    """
    parts = []
    cause: BaseException | None = error
    while cause is not None:
        parts += [f"{type(cause).__module__}.{type(cause).__qualname__}\n", *traceback.format_tb(cause.__traceback__)]
        cause = cause.__cause__ or cause.__context__
    _LOG.error("%s failed: %s", what, "".join(parts).rstrip())


class UnexpectedErrorMiddleware:
    """ASGI middleware that responds to unexpected errors, so that uvicorn does not log messages that contain documents.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Store the argument."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; respond with 500 if it fails, or with 503 if a stopping server cancels it."""
        has_started = False

        async def send_noting(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except (Exception, asyncio.CancelledError) as error:
            if scope["type"] != "http":
                raise
            if isinstance(error, asyncio.CancelledError):
                error = server_stopping_error()
            else:
                log_unexpected_error(f"A request to {scope['path']}", error)
            if not has_started:
                await error_response(Request(scope), api_error_from_exception(error))(scope, receive, send)
