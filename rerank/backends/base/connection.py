"""Exchange JSON with one server over HTTP, with pooled connections, time limits, retries and readable errors.

Imports httpx2 and tenacity. The key is read from the environment for every request and is stored nowhere. It is removed
from everything that a server sends, since a server may repeat it in an error, a reply or the name of a model.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import weakref
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import tenacity

from rerank.backends.base.addresses import Address, api_key_for_server
from rerank.backends.base.responses import (
    FIRST_TRIES,
    FIRST_WAIT,
    LONGEST_WAIT,
    SLOW_TRIES,
    TRIES,
    Attempts,
    KeyRejectedError,
    RequestFailedError,
    RequestRejectedError,
    ServerResponse,
    describe_content,
    object_in,
    shorten,
)
from rerank.errors import BackendError, MissingPrerequisiteError, UsageError, error_repr

T = TypeVar("T")

#: Longest accepted Retry-After, in seconds.
LONGEST_ASKED = 120.0
#: Time limit for connecting, in seconds.
CONNECT = 10.0
#: Largest response that is read, in bytes, both as sent and after decompression.
MAX_BYTES = 64 << 20
#: ``wbits`` of zlib for gzip.
_GZIP = 31
#: Seconds after which an idle connection is not used again. Uvicorn, which vLLM and SGLang use, closes it after 5 s.
#: Encrypted connections take longer to open, and servers on the internet keep them open for a minute or more.
_IDLE, _IDLE_ENCRYPTED = 4.0, 50.0
#: Status codes to retry, besides 5xx: timeout, conflict, too early, too many requests.
_RETRIED = frozenset({408, 409, 425, 429})
#: Minimum length of a real key. Shorter keys are placeholders such as "x", and are not removed from messages.
_SECRET = 8
#: What reasons for a failed TLS handshake usually mean.
_TLS_HINTS = {
    "CERTIFICATE_VERIFY_FAILED": "; if a proxy decrypts connections, set SSL_CERT_FILE to a file with its certificate",
    "WRONG_VERSION_NUMBER": "; the server may speak http instead of https",
}
_PROXY_LOGIN = "The proxy asks for a name and a password: set HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT"


def retrying(
    sleep: Callable[[float], Awaitable[None]], retries: int | None, *, gives_up: Callable[[], bool] = lambda: False
) -> tenacity.AsyncRetrying:
    """Return the policy by which a request is sent again after a `RequestFailedError`; the last error is raised.

    ``retries`` is the maximum number of attempts after the first; None for the number that the error allows. An
    error for which another attempt cannot help is never retried. ``gives_up`` is called after every failure, and
    returns whether to raise the error although another attempt is allowed.
    """

    def should_stop(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, RequestFailedError) or error.tries == 1 or gives_up():
            return True
        return state.attempt_number >= (error.tries if retries is None else 1 + retries)

    def seconds(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        after = error.after if isinstance(error, RequestFailedError) else None
        base = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (state.attempt_number - 1)) if after is None else after
        return base + random.uniform(0, FIRST_WAIT)  # so that the retries of many requests are spread over time

    is_failure = tenacity.retry_if_exception_type(RequestFailedError)
    return tenacity.AsyncRetrying(retry=is_failure, stop=should_stop, wait=seconds, sleep=sleep, reraise=True)


@dataclass(kw_only=True)
class ServerConnection:
    """Persistent connections to one server, which belong to the event loop of the first request.

    The first request opens the connections, and so does the first request after `aclose` or after a fork. They are
    closed by `aclose`, at the end of an ``async with`` block, or when this object is garbage-collected.
    """

    address: Address
    timeout: float  # of one attempt, in seconds
    #: Maximum number of attempts after the first; None for the number that an error allows.
    retries: int | None = None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    transport: httpx2.AsyncBaseTransport | None = None  # replaces the network in tests
    #: Function from the URL and the body of a request to the headers that sign it; None if a key is sent.
    sign: Callable[[str, bytes], Mapping[str, str]] | None = None
    #: Function that returns whether another server can receive a request that this server did not answer; if so, the
    #: request is not repeated here. None if there is no other server.
    has_other_server: Callable[[], bool] | None = None
    #: Number of attempts that reached the server. While it is 0, fewer attempts are made per request.
    contacts: int = field(default=0, init=False)
    #: Whether the server has accepted a request with a body, which it could have rejected for its key or content.
    accepted: bool = field(default=False, init=False)
    _client: httpx2.AsyncClient | None = field(default=None, init=False, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, init=False, repr=False)
    _finalizer: weakref.finalize[..., ServerConnection] | None = field(default=None, init=False, repr=False)
    _times_closed: int = field(default=0, init=False, repr=False)

    async def __aenter__(self) -> ServerConnection:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; requests in progress raise `BackendError`.

        On another event loop than the one that opened the connections, they are dropped without being closed.
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
        return self._client is not None

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        read: Callable[[ServerResponse], T],
        attempts: Attempts | None = None,
        upload: Mapping[str, Any] | None = None,
        retries: int | None = None,
    ) -> T:
        """Send a request, with retries (at most those of the connection if None), and return the parsed response.

        The request is a POST of a JSON body or of an ``upload`` (parts in the format of httpx2's ``files``), or
        else a GET. ``read`` parses a response; it raises `RequestFailedError` if another attempt may succeed.

        Raises `RequestFailedError` if no attempt got a valid response, `RequestRejectedError` if the server
        refuses the request as invalid, and `BackendError` if no request can be answered: the key is missing or
        refused, there is no credit, or the connection was closed.
        """
        url = self.address.with_query(path if "://" in path else self.address.url + path)
        errors = ErrorResponses(self.address, api_key_for_server(self.address))
        content = {"json": body} if upload is None else {"files": upload}
        attempts = attempts or Attempts(self)
        times_closed, has_answered = self._times_closed, False

        def is_down() -> bool:  # a server that sends an invalid response is not down
            return self.has_other_server is not None and not has_answered and self.has_other_server()

        retries = self.retries if retries is None else retries
        async for attempt in retrying(self.sleep, retries, gives_up=is_down):
            with attempt:
                attempts.count += 1
                has_answered = False
                try:
                    if times_closed == self._times_closed:
                        answer = await self._exchange(url, content, errors)
                        has_answered = True
                        return read(answer)
                except RequestFailedError as error:
                    if times_closed == self._times_closed:
                        error.args = (errors.redact(str(error)),)
                        raise error from None  # the cause may repeat the key, too
        raise BackendError(f"The connection to {url} was closed while a request was in progress")

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

    async def _exchange(self, url: str, content: Mapping[str, Any], errors: ErrorResponses) -> ServerResponse:
        """Make one attempt; any status other than success raises an exception."""
        is_post = any(part is not None for part in content.values())
        headers = {"Accept-Encoding": "gzip", **dict(self.address.provider.headers)}
        headers |= self.address.key_header(errors.key)
        if self.sign is not None and self.address.private and content.get("json"):
            content = {"content": json.dumps(content["json"]).encode()}
            headers |= await asyncio.to_thread(self.sign, url, content["content"])  # credentials may need the network
            errors = replace(errors, key=headers.get("X-Amz-Security-Token", ""))  # the only secret that is sent
        try:
            async with asyncio.timeout(self.timeout):  # httpx2's own limit restarts with every byte received
                method = "POST" if is_post else "GET"
                async with self._open().stream(method, url, headers=headers, **content) as response:
                    received = await _read_limited(response)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            hint = next((hint for reason, hint in _TLS_HINTS.items() if reason in str(error)), "")
            found = f"No connection to {url}{self._via}: {error or type(error).__name__}{hint}"
            raise RequestFailedError(found, tries=TRIES if self.contacts else FIRST_TRIES) from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            self.contacts += 1
            raise RequestFailedError(
                f"{url} did not answer within {self.timeout:g} s (--timeout)", tries=SLOW_TRIES
            ) from error
        except httpx2.InvalidURL as error:
            raise BackendError(
                f"The address {error_repr(url, 200)} is invalid: {error}",
                expected="an address, and ids from its server, without control characters",
            ) from error
        except httpx2.RequestError as error:
            self.contacts += 1
            found = f"The connection to {url}{self._via} broke: {error or type(error).__name__}"
            if isinstance(error, httpx2.ProxyError) and "407" in str(error):
                raise BackendError(found, remedy=_PROXY_LOGIN) from error
            raise RequestFailedError(found) from error
        self.contacts += 1
        # A stated charset is ignored, since JSON is Unicode and decoding must not fail.
        text = errors.mask(received.decode(json.detect_encoding(received), "replace")) if received is not None else ""
        if response.status_code >= 300:
            raise errors.read(response, text, accepted=self.accepted)
        self.accepted = self.accepted or is_post
        # A response that is too long has been billed like any other, so it is not an exception.
        return ServerResponse(text, f"{url} returned more than {MAX_BYTES >> 20} MB" if received is None else "")

    def _open(self) -> httpx2.AsyncClient:
        """Return the HTTP client of the running event loop, and open it if necessary.

        In a forked process, the finalizer keeps the parent's client alive and does not close it.
        """
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            encrypted = self.address.url.startswith("https")
            # The router limits the number of simultaneous requests. A second limit here could block requests, since a
            # connection may count as busy for a while after a cancelled request.
            limits = httpx2.Limits(max_connections=None, keepalive_expiry=_IDLE_ENCRYPTED if encrypted else _IDLE)
            self._loop = loop
            # http needs no certificates
            verify = _ssl_context(*map(os.environ.get, _CERTIFICATES)) if encrypted else False
            try:
                self._client = httpx2.AsyncClient(
                    timeout=httpx2.Timeout(self.timeout, connect=min(CONNECT, self.timeout), pool=None),
                    limits=limits,
                    verify=verify,
                    trust_env=not self.address.loopback,  # a proxy cannot reach servers on this machine
                    transport=self.transport,
                )
            except ImportError as error:
                raise MissingPrerequisiteError(
                    f"The connection to {self.address.url}{self._via} needs socksio, which is not installed",
                    remedy="Run: pip install socksio, or use a proxy that starts with http://",
                ) from error
            except (ValueError, httpx2.InvalidURL) as error:
                raise UsageError(
                    f"{self.address.url} cannot be reached{self._via}, which is not the address of a proxy",
                    expected="http://HOST:PORT in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY",
                    remedy="Correct or unset the variable, or add the host to NO_PROXY",
                ) from error
            self._finalizer = weakref.finalize(self, _close_dropped, self._client, loop, os.getpid())
        return self._client

    @property
    def _via(self) -> str:
        """Name the proxy of the environment through which the server is reached; empty if there is none."""
        parts = urlsplit(self.address.url)
        proxies = {} if self.address.loopback or proxy_bypass(parts.hostname or "") else getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
        scheme, separator, rest = proxy.rpartition("://")  # the name and the password are not shown
        return f" through the proxy {scheme}{separator}{rest.rpartition('@')[2]}" if proxy else ""


async def _read_limited(response: httpx2.Response) -> bytes | None:
    """Return the content of a response, or None if it is longer than `MAX_BYTES`."""
    content = bytearray()
    async for part in response.aiter_raw():  # raw, since httpx2 decompresses whole chunks, far beyond the limit
        content += part
        if len(content) > MAX_BYTES:
            return None
    if response.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip"):
        with suppress(zlib.error):  # content that is not gzip is used unchanged
            content = bytearray(zlib.decompressobj(_GZIP).decompress(content, MAX_BYTES + 1))
    return None if len(content) > MAX_BYTES else bytes(content)


#: Tasks that close connections. They are stored here because event loops keep only weak references to tasks.
_closing: set[asyncio.Task[None]] = set()


def _close_dropped(client: httpx2.AsyncClient, loop: asyncio.AbstractEventLoop, pid: int) -> None:
    """Close the connections of a garbage-collected `ServerConnection`; this may run in any thread."""

    def close() -> None:
        task = loop.create_task(client.aclose())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    if os.getpid() == pid and not loop.is_closed():
        loop.call_soon_threadsafe(close)


#: Environment variables that name certificates.
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@cache
def _ssl_context(*certificates: str | None) -> Any:
    """Return the SSL context for values of `_CERTIFICATES`; reading certificates takes longer than many requests."""
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        raise UsageError(
            f"The certificates for https cannot be read: {error}",
            expected="a file of PEM certificates in SSL_CERT_FILE, or a folder of them in SSL_CERT_DIR",
            remedy="Correct or unset these variables",
        ) from error


@dataclass(frozen=True, slots=True)
class ErrorResponses:
    """Converter of error responses to exceptions, for requests that were sent with one key (empty if none was sent)."""

    address: Address
    key: str = field(repr=False)

    def read(self, response: httpx2.Response, text: str, *, accepted: bool) -> Exception:
        """Return the exception for a response with an error status, given its masked text.

        If the server has ``accepted`` other requests, status 403 concerns this request only: gateways send it
        for content that their filters reject.
        """
        status = response.status_code
        value = ServerResponse(text).value
        body = object_in(value[0] if isinstance(value, list) and value else value)  # a list: Gemini
        error = body.get("error", body)  # in any of the usual formats
        error = {"message": error} if isinstance(error, str) else object_in(error)

        def stated(*names: str) -> str:
            return next((value for name in names if isinstance(value := error.get(name), str)), "")

        found, code = stated("message", "Message", "detail") or describe_content(text), stated("code", "type")
        message = self.redact(f"HTTP {status} from {response.url}: {found}")
        if status == 403 and text and not body and found != text and not accepted:
            return KeyRejectedError(
                message,
                expected="an answer in JSON",
                remedy="A proxy, a firewall or a server other than the API refuses the request; check --base-url, the "
                "network and the key",
            )
        if status == 407:
            return BackendError(message, remedy=_PROXY_LOGIN)
        if status == 401 or (status == 403 and not accepted) or found.startswith("API key not valid"):  # 400: Gemini
            names = " or ".join(self.address.provider.keys)
            if self.address.provider.if_refused and self.address.private:
                return KeyRejectedError(message, remedy=self.address.provider.if_refused)
            if self.key:
                return KeyRejectedError(message, remedy=f"The server refuses the key in {names}; set a valid key")
            if not self.address.private:
                return KeyRejectedError(
                    message, remedy="No key was sent, since http to another machine is not encrypted; use https"
                )
            return KeyRejectedError(message, expected=f"a key in the environment variable {names}", remedy="Set it")
        if status == 402 or code in ("insufficient_quota", "billing_hard_limit_reached"):
            return BackendError(message, remedy="The account has no credit left; add credit, then use --resume")
        if status < 400:
            target = self.redact(response.headers.get("location", "nowhere"))
            return BackendError(message, remedy=f"The server redirects to {target}; set the final URL with --base-url")
        if status in _RETRIED or status >= 500:
            after = parse_retry_after(response.headers.get("retry-after", ""))
            too_long = after is not None and after > LONGEST_ASKED
            more = f" (the server asks to wait {after:.0f} s)" if too_long else ""
            return RequestFailedError(message + more, after=after, tries=1 if too_long else TRIES)
        return RequestRejectedError(message, status=status, code=code, field=stated("param"))

    def mask(self, text: str) -> str:
        """Replace the API key in a text from the server, which may be JSON, by asterisks."""
        key = self.key
        if len(key) < _SECRET:
            return text
        # Any character of the key may be escaped as in JSON.
        forms = (
            (c, json.dumps(c)[1:-1], f"\\u{ord(c):04x}", f"\\u{ord(c):04X}", f"\\{c}" if c == "/" else c) for c in key
        )
        return re.sub("".join(f"(?:{'|'.join(map(re.escape, dict.fromkeys(form)))})" for form in forms), "***", text)

    def redact(self, text: str) -> str:
        """Remove the API key from an error message of the server, and shorten the message."""
        return shorten(self.mask(text))


def parse_retry_after(value: str) -> float | None:
    """Convert a Retry-After header, seconds or an HTTP date (RFC 9110, section 10.2.3), to seconds; None if invalid."""
    with suppress(ValueError):
        return None if math.isnan(seconds := float(value)) else max(0.0, seconds)
    try:
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):  # OverflowError: such as the year 99999999999
        return None
