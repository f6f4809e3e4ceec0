"""Limits on the number of connections and on the size of a request's head (request line and headers)."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rerank.serving.api_errors import ApiError, error_body

_LOG = logging.getLogger(__name__)

#: Seconds after which a client above the limit should try again.
_RETRY_AFTER = 1
#: Seconds that a refused connection stays open: many clients read a response only after sending the whole request.
_REFUSING = 1.0
#: Minimum number of seconds between two log messages about refused connections.
_LOG_INTERVAL = 60.0
#: Maximum number of bytes of an incomplete head, not counting those that arrived together with its beginning.
_MAX_HEAD = 65_536


def limited_http_protocol(limit: int) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol class for one server, with limits on open connections and on request heads.

    Uvicorn's own ``limit_concurrency`` leaves connections open and refuses the requests of all of them. Here, only
    connections above the limit are refused with 503. At most ``limit`` refused connections stay open until the client
    has read this response; further connections are closed without a response.

    Args:
        limit: Maximum number of open connections.
    """
    refused: set[asyncio.Protocol] = set()
    next_message = 0.0

    class LimitedProtocol(HttpToolsProtocol):
        is_in_head, head_bytes = False, 0

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

        def on_message_begin(self) -> None:
            self.is_in_head, self.head_bytes = True, 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self.is_in_head = False
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            self.head_bytes += len(data) if self.is_in_head else 0
            super().data_received(data)
            if self.is_in_head and self.head_bytes > _MAX_HEAD:  # httptools would store a head of any size
                self.send_400_response(f"The head of the request exceeds {_MAX_HEAD} bytes.")

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
        error = ApiError(503, "Too many connections are open; try again later")
        body = error_body(error, "").model_dump_json().encode()
        self._transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\nRetry-After: %d\r\n\r\n%b" % (len(body), _RETRY_AFTER, body)
        )
        self._transport.write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._refused.discard(self)
