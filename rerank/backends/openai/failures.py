"""Convert HTTP error responses to exceptions, and remove the API key from everything that a server sends.

A server may repeat the key in an error, a reply or the name of a model, which are shown and stored.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import httpx2

from rerank.backends.openai.address import KEYS, Address
from rerank.backends.openai.retries import (
    LONGEST_ASKED,
    TRIES,
    RequestFailedError,
    RequestRejectedError,
    parse_retry_after,
)
from rerank.errors import BackendError

#: Status codes to retry, besides 5xx: timeout, conflict, too early, too many requests.
_RETRIED = frozenset({408, 409, 425, 429})
#: Maximum number of characters of a server message that are shown.
_SHOWN = 400
#: Minimum length of a real key. Shorter keys are placeholders such as "x", and are not removed from messages.
_SECRET = 8
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


@dataclass(frozen=True, slots=True)
class FailureReader:
    """Interprets the error responses to requests that were sent with one key.

    Attributes:
        address: The address of the server.
        key: The key; empty if none was sent.
    """

    address: Address
    key: str = field(repr=False)

    def read(self, response: httpx2.Response, *, accepted: bool) -> Exception:
        """Return the exception for a response with an error status.

        Args:
            response: The response.
            accepted: Whether the server has accepted other requests. If so, status 403 concerns this request only:
                gateways send it for content that their filters reject.
        """
        status, text = response.status_code, self.mask(response.text)
        error = _error_of_response(text)
        code = str(error.get("code") or error.get("type") or "")
        text = error["message"] if isinstance(error.get("message"), str) else text
        message = self.redact(f"HTTP {status} from {response.url}: {' '.join(text.split()) or 'nothing'}")
        if status == 401 or (status == 403 and not accepted):
            return self._unauthorised(message)
        if status == 402 or code in _QUOTA:
            return BackendError(message, remedy="The account has no credit left; add credit, then use --resume")
        if status < 400:
            target = self.redact(response.headers.get("location", "nowhere"))
            return BackendError(message, remedy=f"The server redirects to {target}; set the final URL with --base-url")
        if status in _RETRIED or status >= 500:
            after = parse_retry_after(response.headers.get("retry-after", ""))
            too_long = after is not None and after > LONGEST_ASKED
            more = f" (the server asks to wait {after:.0f} s)" if too_long else ""
            return RequestFailedError(message + more, after=after, tries=1 if too_long else TRIES)
        return RequestRejectedError(message, status=status, code=code, field=str(error.get("param") or ""))

    def mask(self, text: str) -> str:
        """Replace the key in a text of the server, which may be JSON, by asterisks."""
        return _pattern_of_key(self.key).sub("***", text) if len(self.key) >= _SECRET else text

    def redact(self, text: str) -> str:
        """Remove the key from a server message and shorten it."""
        clear = self.mask(text)
        return clear if len(clear) <= _SHOWN else f"{clear[: _SHOWN - 1]}…"

    def _unauthorised(self, message: str) -> BackendError:
        names = " or ".join(KEYS)
        if self.key:
            return BackendError(message, remedy=f"The server refuses the key in {names}; set a valid key")
        if not self.address.private:
            return BackendError(
                message, remedy="No key was sent, since http to another machine is not encrypted; use https"
            )
        return BackendError(message, expected=f"a key in the environment variable {names}", remedy="Set it")


def _pattern_of_key(key: str) -> re.Pattern[str]:
    """Return a pattern that matches a key, also if JSON escapes some of its characters."""
    forms = ((c, json.dumps(c)[1:-1], f"\\u{ord(c):04x}", f"\\u{ord(c):04X}", f"\\{c}" if c == "/" else c) for c in key)
    return re.compile("".join(f"(?:{'|'.join(map(re.escape, dict.fromkeys(form)))})" for form in forms))


def _error_of_response(text: str) -> dict[str, Any]:
    """Return the error object of a response in any of the usual formats; empty if there is none."""
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    inner = body.get("error", body)
    if isinstance(inner, dict):
        return {**inner, "message": inner.get("message") or inner.get("detail")}
    return {"message": json.dumps(inner) if not isinstance(inner, str) else inner}
