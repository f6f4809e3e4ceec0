"""ASGI middleware: counts and log of requests, unexpected errors, access by key or host name, and size of bodies."""

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank.serving import errors
from rerank.serving.errors import CLIENT_LEFT_STATUS, ApiError
from rerank.serving.ranking_service import ServerMetrics
from rerank.serving.settings import ServerKeys
from rerank.tasks.tracing import current_trace_id

#: Paths that reveal only whether the server runs; load balancers request them under any host name.
_STATUS_PATHS = frozenset({"/health", "/ready"})
_UNCOUNTED = _STATUS_PATHS | {"/metrics"}  #: Paths that monitoring requests, and that are not counted.
#: Paths that need no key: they reveal only whether the server runs, or return static files of the playground.
OPEN_PATHS = _STATUS_PATHS | {"/", "/playground.css", "/playground.js"}
#: Limits on reading and discarding a body that is too large: bytes as a multiple of the size limit, and seconds. Most
#: clients read a response only after they have sent the whole body, and would otherwise report a broken connection.
_DROPPED_LIMITS, _DROPPING = 10, 20.0


def is_probe(scope: Scope) -> bool:
    """Return whether monitoring sends this request, which is neither counted nor traced."""
    return scope["path"] in _UNCOUNTED


class RequestCountMiddleware:
    """Middleware that counts all requests; unknown paths are ``other``, so that clients cannot add metric labels."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_probe(scope):
            await self._app(scope, receive, send)
            return
        with self._metrics.request(scope["path"] if scope["path"] in self._paths else "other") as status:

            async def send_counted(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] != CLIENT_LEFT_STATUS:
                    status.append(str(message["status"]))
                await send(message)

            await self._app(scope, receive, send_counted)


class JsonLogMiddleware:
    """Middleware that writes one JSON object per request to standard output, without query string, texts and keys.

    The request id is that of the header ``X-Request-Id``, or else random; the response has it too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = dict(scope["headers"]).get(b"x-request-id", b"")[:200] or uuid.uuid4().hex.encode()
        at, began, status, size = datetime.now(UTC), time.perf_counter(), 500, 0

        async def send_counted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            line = {"time": at.isoformat(timespec="milliseconds"), "method": scope["method"], "path": scope["path"]}
            line |= {"status": status, "ms": round(1000 * (time.perf_counter() - began), 3), "bytes": size}
            line |= {"request_id": request_id.decode("latin-1"), "trace_id": current_trace_id()}
            with suppress(OSError):  # nobody reads it any more
                sys.stdout.write(json.dumps(line | {"client": scope["state"].get("client", "")}) + "\n")
                sys.stdout.flush()


class UnexpectedErrorMiddleware:
    """Middleware that responds to unexpected errors, so that uvicorn does not log messages that contain documents."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
                error = errors.stopping()
            else:
                errors.log_unexpected(f"A request to {scope['path']}", error)
            if not has_started:
                await errors.response_for(Request(scope), errors.from_exception(error))(scope, receive, send)


class AccessMiddleware:
    """Middleware that responds with 401 if a required key is missing or wrong, before the body is read.

    Otherwise, it stores the client's name in ``request.state.client``. A server that needs no keys responds with 421 if
    the header Host or Origin names a host that is not among ``names`` (``*`` allows all): a page of another site can
    make its host name resolve to this machine (DNS rebinding). Its requests then carry that name, whereas requests to
    an IP address or to ``localhost`` come from pages and programs of the user.
    """

    def __init__(self, app: ASGIApp, keys: ServerKeys, names: Collection[str] = ()) -> None:
        self._app, self._keys = app, keys
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            address = request.client.host if request.client else ""
            client = self._keys.client(request.headers.get("authorization", ""), address)
            if (error := self._refusal(scope, client)) is not None:
                await errors.response_for(request, error)(scope, receive, send)
                return
            request.state.client = client or address
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, client: str | None) -> ApiError | None:
        if client is None and scope["path"] not in OPEN_PATHS:
            message = "The key is missing or wrong; expected Authorization: Bearer KEY"
            return ApiError(401, message, {"WWW-Authenticate": "Bearer"})
        if self._keys.digests or scope["path"] in _STATUS_PATHS or "*" in self._names:
            return None
        for header, value in scope["headers"]:
            if header in (b"host", b"origin") and not self._is_named(value.decode("latin-1")):
                return ApiError(
                    421,
                    f"The header {header.decode().capitalize()} is {value.decode('latin-1')[:100]!r}; expected an IP "
                    "address or localhost. To use this name, start the server with --allowed-host NAME or with keys",
                )
        return None

    def _is_named(self, value: str) -> bool:
        try:  # an origin has a scheme, and Host has none
            host = (urlsplit(value if "://" in value else f"//{value}").hostname or "").rstrip(".")
            return host in self._names or bool(ip_address(host.partition("%")[0]))
        except ValueError:
            return False


class BodyLimitMiddleware:
    """Middleware that responds with 413 if a body is larger than allowed, even without a header Content-Length."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        message = f"The body is too large; expected at most {self._max_bytes} bytes"
        headers = {"Connection": "close"}
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            await self._drop_body(receive)
            await errors.response_for(Request(scope), ApiError(413, message, headers))(scope, receive, send)
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
