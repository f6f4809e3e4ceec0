"""Exchange JSON with one server over HTTP, with pooled connections, time limits, retries and readable errors.

Imports httpx2 and tenacity. The key is read from the environment for every request and is stored nowhere.
"""

from __future__ import annotations

import asyncio
import os
import weakref
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import httpx2

from rerank.backends.base.request_retries import (
    FIRST_TRIES,
    SLOW_TRIES,
    TRIES,
    RequestFailedError,
    RequestRejectedError,
    make_retrying_sender,
)
from rerank.backends.base.server_address import Address, api_key_for_server
from rerank.backends.base.server_answers import ServerResponse, decode_server_response
from rerank.backends.base.server_failures import ErrorResponseConverter
from rerank.errors import BackendError

T = TypeVar("T")

#: Time limit for connecting, in seconds.
CONNECT = 10.0
#: Largest response that is read, in bytes, both as sent and after decompression.
MAX_BYTES = 64 << 20
#: ``wbits`` of zlib for gzip.
_GZIP = 31
#: Headers that do not describe decompressed content.
_OF_ENCODED_CONTENT = ("content-encoding", "content-length", "transfer-encoding")
#: Seconds after which an idle connection is not used again. Uvicorn, which vLLM and SGLang use, closes it after 5 s.
#: Encrypted connections take longer to open, and servers on the internet keep them open for a minute or more.
_IDLE, _IDLE_ENCRYPTED = 4.0, 50.0


@dataclass(kw_only=True)
class ServerConnection:
    """Persistent connections to one server, which belong to the event loop of the first request.

    The first request opens the connections, and so does the first request after `aclose` or after a fork. They are
    closed by `aclose`, at the end of an ``async with`` block, or when this object is garbage-collected.

    Attributes:
        address: The address of the server.
        timeout: Time limit of one attempt, in seconds.
        retries: Maximum number of attempts after the first; None for the rules of `request_retries`.
        sleep: Function that waits between attempts.
        transport: Replacement for the network, for tests.
        has_other_server: Function that returns whether another server can receive a request that this server did not
            answer; if so, the request is not repeated here. None if there is no other server.
        contacts: Number of attempts that reached the server. While it is 0, fewer attempts are made per request.
        accepted: Whether the server has accepted a request with a body, which it could have rejected for its key or
            content.
    """

    address: Address
    timeout: float
    retries: int | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    transport: httpx2.AsyncBaseTransport | None = None
    has_other_server: Callable[[], bool] | None = None
    contacts: int = field(default=0, init=False)
    accepted: bool = field(default=False, init=False)
    _client: httpx2.AsyncClient | None = field(default=None, init=False, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False, repr=False)
    _finalizer: weakref.finalize[..., ServerConnection] | None = field(default=None, init=False, repr=False)
    _times_closed: int = field(default=0, init=False, repr=False)

    async def __aenter__(self) -> ServerConnection:
        """Return this object; the first request opens the connections."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; requests in progress raise `BackendError`.

        This must run on the event loop that opened the connections; on any other loop, the connections are dropped
        without being closed.
        """
        client, self._client = self._client, None
        if client is None or self._loop is not asyncio.get_running_loop():
            return
        self._times_closed += 1
        if self._finalizer is not None:
            self._finalizer.detach()
        await client.aclose()

    @property
    def is_open(self) -> bool:
        """Whether there may be open connections."""
        return self._client is not None

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: Callable[[ServerResponse], T],
        on_attempt: Callable[[], None] = lambda: None,
        upload: Mapping[str, Any] | None = None,
        retries: int | None = None,
    ) -> T:
        """Send a request, with retries, and return the parsed response.

        Args:
            path: Path after the server's base URL, or a complete URL.
            body: JSON body of a POST request; None for a GET request, or for an upload.
            read: Function that parses a response. It raises `RequestFailedError` if another attempt may succeed.
            on_attempt: Function that is called before each attempt.
            upload: The parts of a multipart POST request, in the format of httpx2's ``files``; None for no upload.
            retries: Maximum number of attempts after the first, for this request; None for `ServerConnection.retries`.

        Raises:
            RequestFailedError: No attempt got a valid response.
            RequestRejectedError: The server refuses the request as invalid.
            BackendError: No request can be answered: the key is missing or refused, there is no credit, or the
                connection was closed.
        """
        url = path if "://" in path else self.address.url + path
        failures = ErrorResponseConverter(self.address, api_key_for_server(self.address))
        times_closed = self._times_closed
        content = {"json": body} if upload is None else {"files": upload}
        has_answered = False  # a server that sends an invalid response is not down

        async def once() -> T:
            nonlocal has_answered
            on_attempt()
            try:
                if times_closed == self._times_closed:
                    has_answered = False
                    answer = await self._once(url, content, failures)
                    has_answered = True
                    return read(answer)
            except RequestFailedError as error:
                if times_closed == self._times_closed:
                    error.args = (failures.redact(str(error)),)
                    raise error from None  # the cause may repeat the key, too
            raise BackendError(f"The connection to {url} was closed while a request was in progress")

        retries, other = self.retries if retries is None else retries, self.has_other_server or (lambda: False)
        return await make_retrying_sender(self.sleep, retries, gives_up=lambda: not has_answered and other())(once)

    async def is_up(self) -> bool:
        """Return whether the server responds to a cheap request, even if the response rejects the request."""
        try:
            async with asyncio.timeout(CONNECT):
                await self.ask("/models", read=lambda answer: None, retries=0)
        except (RequestFailedError, TimeoutError):
            return False
        except (RequestRejectedError, BackendError):
            return True
        return True

    async def _once(self, url: str, content: Mapping[str, Any], failures: ErrorResponseConverter) -> ServerResponse:
        response, unreadable = await self._respond(url, content, failures.key)
        self.contacts += 1
        if response.status_code >= 300:
            raise failures.read(response, accepted=self.accepted)
        self.accepted = self.accepted or any(part is not None for part in content.values())
        return ServerResponse(failures.mask(decode_server_response(response)), unreadable)

    async def _respond(self, url: str, content: Mapping[str, Any], key: str) -> tuple[httpx2.Response, str]:
        """Make one attempt; return the response, and an error message that is empty if its content was read."""
        method = "POST" if any(part is not None for part in content.values()) else "GET"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers["Accept-Encoding"] = "gzip"
        try:
            async with asyncio.timeout(self.timeout):  # httpx2's own limit restarts with every byte received
                async with self._open().stream(method, url, headers=headers, **content) as response:
                    return await _read_limited_response(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            tries = TRIES if self.contacts else FIRST_TRIES
            raise RequestFailedError(f"No connection to {url}: {error or type(error).__name__}", tries=tries) from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            self.contacts += 1
            raise RequestFailedError(
                f"{url} did not answer within {self.timeout:g} s (--timeout)", tries=SLOW_TRIES
            ) from error
        except httpx2.RequestError as error:
            self.contacts += 1
            raise RequestFailedError(f"The connection to {url} broke: {error or type(error).__name__}") from error

    def _open(self) -> httpx2.AsyncClient:
        """Return the HTTP client of the running event loop, and open it if necessary.

        In a forked process, the finalizer keeps the parent's client alive and does not close it.
        """
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            encrypted = self.address.url.startswith("https")
            self._loop, self._client = (
                loop,
                httpx2.AsyncClient(
                    timeout=httpx2.Timeout(self.timeout, connect=min(CONNECT, self.timeout), pool=None),
                    # The backend limits the number of simultaneous requests. A second limit here could block requests,
                    # since a connection may count as busy for a while after a cancelled request.
                    limits=httpx2.Limits(
                        max_connections=None, keepalive_expiry=_IDLE_ENCRYPTED if encrypted else _IDLE
                    ),
                    verify=_server_ssl_context() if encrypted else False,  # http needs no certificates
                    trust_env=not self.address.loopback,  # a proxy cannot reach servers on this machine
                    transport=self.transport,
                ),
            )
            self._finalizer = weakref.finalize(self, _close_dropped_server_connection, self._client, loop, os.getpid())
        return self._client


async def _read_limited_response(response: httpx2.Response) -> tuple[httpx2.Response, str]:
    """Return a response with its content, and an error message that is empty if the content fits in `MAX_BYTES`.

    A response that is too long has been billed like any other, so it is returned without content and not raised as an
    exception.
    """
    content = bytearray()
    async for part in response.aiter_raw():  # raw, since httpx2 decompresses whole chunks, far beyond the limit
        content += part
        if len(content) > MAX_BYTES:
            break
    if response.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip"):
        with suppress(zlib.error):  # content that is not gzip is used unchanged
            content = bytearray(zlib.decompressobj(_GZIP).decompress(content, MAX_BYTES + 1))
    too_long = len(content) > MAX_BYTES
    headers = {name: value for name, value in response.headers.items() if name not in _OF_ENCODED_CONTENT}
    read = httpx2.Response(
        response.status_code,
        headers=headers,
        content=b"" if too_long else bytes(content),
        request=response.request,
    )
    return read, f"{response.url} returned more than {MAX_BYTES >> 20} MB" if too_long else ""


#: Tasks that close connections. They are stored here because event loops keep only weak references to tasks.
_closing: set[asyncio.Task[None]] = set()


def _close_dropped_server_connection(client: httpx2.AsyncClient, loop: asyncio.AbstractEventLoop, pid: int) -> None:
    """Close the connections of a garbage-collected `ServerConnection`; this may run in any thread."""

    def close() -> None:
        task = loop.create_task(client.aclose())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    if os.getpid() == pid and not loop.is_closed():
        loop.call_soon_threadsafe(close)


@cache
def _server_ssl_context() -> Any:
    """Return the SSL context. It is cached, since reading the certificates takes longer than many requests."""
    return httpx2.create_ssl_context()
