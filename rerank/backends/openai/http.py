"""JSON over HTTP to one server, with time limits, retries and readable errors. Imports httpx and tenacity.

The key is read from the environment when a connection is opened and is stored nowhere else. It is removed from server
messages before they are shown.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import httpx

from rerank.backends.openai.address import KEYS, Address, key_for
from rerank.backends.openai.retries import (
    FIRST_TRIES,
    LONGEST_ASKED,
    SLOW_TRIES,
    TRIES,
    RequestFailedError,
    RequestRejectedError,
    make_retrying,
    parse_retry_after,
)
from rerank.errors import BackendError

T = TypeVar("T")

#: Time limit for connecting, in seconds.
CONNECT = 10.0
#: Status codes to retry, besides 5xx: timeout, conflict, too early, too many requests.
_RETRIED = frozenset({408, 409, 425, 429})
#: Maximum number of characters of a server message that are shown.
_SHOWN = 400
#: Shorter keys are placeholders such as "x" or "EMPTY", and are not removed from messages.
_SECRET = 8
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine and return its result, even if an event loop already runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@dataclass(kw_only=True)
class ServerConnection:
    """A context manager that sends requests to one server over persistent connections.

    Attributes:
        address: The address of the server.
        timeout: Time limit of one attempt, in seconds.
        sleep: Waits between attempts.
        transport: Replacement of the network, for tests.
        known: Whether the server has answered before; an unknown server gets fewer attempts.
        reached: Whether any attempt got beyond connecting; None if there was no attempt.
    """

    address: Address
    timeout: float
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    transport: httpx.AsyncBaseTransport | None = None
    known: bool = False
    reached: bool | None = None

    async def __aenter__(self) -> ServerConnection:
        """Prepare the HTTP client, without connecting."""
        key = key_for(self.address)
        self._key = key
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self.timeout, connect=min(CONNECT, self.timeout), pool=None),
            limits=httpx.Limits(max_connections=None),
            verify=_certificates() if self.address.url.startswith("https") else False,  # http needs no certificates
            trust_env=not self.address.loopback,  # a proxy cannot reach servers on this machine
            transport=self.transport,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connections and delete the key."""
        self._key = ""
        await self._client.aclose()

    def forget(self) -> None:
        """Reset `reached`."""
        self.reached = None

    async def ask(self, path: str, body: Mapping[str, Any] | None = None, *, read: Callable[[dict[str, Any]], T]) -> T:
        """Send a request, with retries, and return the parsed answer.

        Args:
            path: Path after the server's base URL, or a complete URL.
            body: JSON body of a POST request; None for a GET request.
            read: Parses the answer; raises `RequestFailedError` if it is invalid.

        Raises:
            RequestFailedError: No attempt got a valid answer.
            RequestRejectedError: The server refuses the request as invalid.
            BackendError: No request can be answered: the key is missing or refused, or there is no credit.
        """
        url = path if "://" in path else self.address.url + path

        async def once() -> T:
            try:
                return read(await self._once(url, body))
            except RequestFailedError as error:
                error.args = (self._redact(str(error)),)
                raise

        return await make_retrying(self.sleep)(once)

    async def _once(self, url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self.timeout):  # httpx's own limit restarts with every byte received
                response = await self._client.request("GET" if body is None else "POST", url, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.reached = self.reached or False
            tries = TRIES if self.known else FIRST_TRIES
            raise RequestFailedError(f"No connection to {url}: {error or type(error).__name__}", tries=tries) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            self.reached = True
            raise RequestFailedError(
                f"{url} did not answer within {self.timeout:g} s (--timeout)", tries=SLOW_TRIES
            ) from error
        except httpx.RequestError as error:
            self.reached = True
            raise RequestFailedError(f"The connection to {url} broke: {error or type(error).__name__}") from error
        self.reached = self.known = True
        if response.status_code >= 300:
            raise self._failure(response)
        try:
            answer = response.json()
        except ValueError as error:
            text = " ".join(response.text.split()) or "nothing"
            raise RequestFailedError(f"{url} returned a response that is not JSON: {text}") from error
        if not isinstance(answer, dict):
            raise RequestFailedError(f"{url} returned JSON that is not an object: {answer}")
        return answer

    def _failure(self, response: httpx.Response) -> Exception:
        status, error = response.status_code, _error_of(response)
        code = str(error.get("code") or error.get("type") or "")
        text = error["message"] if isinstance(error.get("message"), str) else response.text
        message = self._redact(f"HTTP {status} from {response.url}: {' '.join(text.split()) or 'nothing'}")
        if status in (401, 403):
            return self._unauthorised(message)
        if status == 402 or code in _QUOTA:
            return BackendError(message, remedy="The account has no credit left; add credit, then use --resume")
        if status < 400:
            target = self._redact(response.headers.get("location", "nowhere"))
            return BackendError(message, remedy=f"The server redirects to {target}; set the final URL with --base-url")
        if status in _RETRIED or status >= 500:
            after = parse_retry_after(response.headers.get("retry-after", ""))
            too_long = after is not None and after > LONGEST_ASKED
            more = f" (the server asks to wait {after:.0f} s)" if too_long else ""
            return RequestFailedError(message + more, after=after, tries=1 if too_long else TRIES)
        return RequestRejectedError(message, status=status, code=code, field=str(error.get("param") or ""))

    def _unauthorised(self, message: str) -> BackendError:
        names = " or ".join(KEYS)
        if self._key:
            return BackendError(message, remedy=f"The server refuses the key in {names}; set a valid key")
        if not self.address.private:
            return BackendError(
                message, remedy="No key was sent, since http to another machine is not encrypted; use https"
            )
        return BackendError(message, expected=f"a key in the environment variable {names}", remedy="Set it")

    def _redact(self, text: str) -> str:
        """Remove the key from a server message and shorten it."""
        clear = text.replace(self._key, "***") if len(self._key) >= _SECRET else text
        return clear if len(clear) <= _SHOWN else f"{clear[: _SHOWN - 1]}…"


def _error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object of a response in any of the usual formats; empty if there is none."""
    try:
        body = response.json()
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    inner = body.get("error", body)
    if isinstance(inner, dict):
        return {**inner, "message": inner.get("message") or inner.get("detail")}
    return {"message": json.dumps(inner) if not isinstance(inner, str) else inner}


@cache
def _certificates() -> Any:
    """Return the SSL context; cached, since reading the certificates takes longer than many requests."""
    return httpx.create_ssl_context()
