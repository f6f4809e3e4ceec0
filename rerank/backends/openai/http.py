"""JSON over HTTP to one server: time limits, and failures in words. Imports httpx and tenacity.

Knows what a status means for the next try, not what is asked. The key is read from the environment when it is sent and
is kept nowhere else; whatever a server says is cleared of it before it is shown.
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
    Failed,
    Rejected,
    retrying,
    seconds_of,
)
from rerank.errors import BackendError

T = TypeVar("T")

#: Seconds to connect.
CONNECT = 10.0
#: 408 to 429: the request came too slowly, too early, or is one too many; 5xx is the server's own trouble.
_AGAIN = frozenset({408, 409, 425, 429})
#: Characters of a message that are shown.
_SHOWN = 400
#: Keys shorter than that are none: local servers are often given "x" or "EMPTY".
_SECRET = 8
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where this thread runs an event loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@dataclass(kw_only=True)
class Exchange:
    """Questions to one server over connections that are used again; a context manager.

    Attributes:
        address: The server.
        timeout: Seconds that one try may take, all of it.
        sleep: How to wait between tries.
        transport: Instead of the network, for tests.
        known: Whether the server has answered before, so that it is worth waiting for.
        reached: Whether anything listens there, as far as was seen: a try got further than connecting. None if nothing
            was tried.
    """

    address: Address
    timeout: float
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    transport: httpx.AsyncBaseTransport | None = None
    known: bool = False
    reached: bool | None = None

    async def __aenter__(self) -> Exchange:
        """Open; nothing is connected yet."""
        key = key_for(self.address)
        self._key = key
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self.timeout, connect=min(CONNECT, self.timeout), pool=None),
            limits=httpx.Limits(max_connections=None),
            verify=_certificates() if self.address.url.startswith("https") else False,  # http has none to verify
            trust_env=not self.address.loopback,  # a proxy cannot reach this machine's own servers
            transport=self.transport,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connections; forget the key."""
        self._key = ""
        await self._client.aclose()

    def forget(self) -> None:
        """See anew whether anything listens there."""
        self.reached = None

    async def ask(self, path: str, body: Mapping[str, Any] | None = None, *, read: Callable[[dict[str, Any]], T]) -> T:
        """Send ``body`` (get, if there is none) and read the answer, several times if need be.

        Args:
            path: Behind the server's address; a whole address is taken as it is.
            body: What to send as JSON.
            read: Makes something of the answer; raises `Failed` if it is not what was to come.

        Raises:
            Failed: There is no answer, after all tries.
            Rejected: The request is wrong for this server.
            BackendError: Nothing can be asked here: no key, no such model, no credit.
        """
        url = path if "://" in path else self.address.url + path

        async def once() -> T:
            try:
                return read(await self._once(url, body))
            except Failed as error:
                error.args = (self._shown(str(error)),)
                raise

        return await retrying(self.sleep)(once)

    async def _once(self, url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self.timeout):  # httpx's own limit starts anew with every byte that comes
                response = await self._client.request("GET" if body is None else "POST", url, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.reached = self.reached or False
            tries = TRIES if self.known else FIRST_TRIES
            raise Failed(f"No connection to {url}: {error or type(error).__name__}", tries=tries) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            self.reached = True
            raise Failed(f"{url} did not answer within {self.timeout:g} s (--timeout)", tries=SLOW_TRIES) from error
        except httpx.RequestError as error:
            self.reached = True
            raise Failed(f"The connection to {url} broke: {error or type(error).__name__}") from error
        self.reached = self.known = True
        if response.status_code >= 300:
            raise self._failure(response)
        try:
            found = response.json()
        except ValueError as error:
            said = " ".join(response.text.split()) or "nothing"
            raise Failed(f"{url} answered with something that is no JSON: {said}") from error
        if not isinstance(found, dict):
            raise Failed(f"{url} answered with JSON of another shape: {found}")
        return found

    def _failure(self, response: httpx.Response) -> Exception:
        status, error = response.status_code, _error_of(response)
        code = str(error.get("code") or error.get("type") or "")
        said = error["message"] if isinstance(error.get("message"), str) else response.text
        message = self._shown(f"HTTP {status} from {response.url}: {' '.join(said.split()) or 'nothing'}")
        if status in (401, 403):
            return self._unauthorised(message)
        if status == 402 or code in _QUOTA:
            return BackendError(message, remedy="The account has no credit left: add some, then pass --resume")
        if status < 400:
            where = self._shown(response.headers.get("location", "nowhere"))
            return BackendError(message, remedy=f"It redirects to {where}: give the address that answers, --base-url")
        if status in _AGAIN or status >= 500:
            after = seconds_of(response.headers.get("retry-after", ""))
            too_long = after is not None and after > LONGEST_ASKED
            more = f" (it asks to wait {after:.0f} s)" if too_long else ""
            return Failed(message + more, after=after, tries=1 if too_long else TRIES)
        return Rejected(message, status=status, code=code, field=str(error.get("param") or ""))

    def _unauthorised(self, message: str) -> BackendError:
        names = " or ".join(KEYS)
        if self._key:
            return BackendError(message, remedy=f"The server refuses the key in {names}: set a valid one")
        if not self.address.private:
            return BackendError(
                message, remedy="No key was sent, since the address is plain http to another machine: use https"
            )
        return BackendError(message, expected=f"a key in the environment variable {names}", remedy="Set it")

    def _shown(self, text: str) -> str:
        """Words of a server, as a message shows them: without the key, and short."""
        clear = text.replace(self._key, "***") if len(self._key) >= _SECRET else text
        return clear if len(clear) <= _SHOWN else f"{clear[: _SHOWN - 1]}…"


def _error_of(response: httpx.Response) -> dict[str, Any]:
    """What the body says of an error, whichever of the usual shapes it has; empty if none."""
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
    """Reading the certificates takes longer than many a request, so it is done once."""
    return httpx.create_ssl_context()
