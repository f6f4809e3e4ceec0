"""Convert HTTP error responses to exceptions, and remove the API key from everything that a server sends.

A server may repeat the key in an error, a reply or the name of a model, which are shown and stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from rerank.backends.base.request_retries import (
    LONGEST_ASKED,
    TRIES,
    RequestFailedError,
    RequestRejectedError,
    parse_retry_after,
)
from rerank.backends.base.server_address import Address
from rerank.backends.base.server_answers import (
    decode_json_object,
    decode_server_response,
    object_in_answer,
    shorten_server_message,
)
from rerank.errors import BackendError

#: Status codes to retry, besides 5xx: timeout, conflict, too early, too many requests.
_RETRIED = frozenset({408, 409, 425, 429})
#: Minimum length of a real key. Shorter keys are placeholders such as "x", and are not removed from messages.
_SECRET = 8
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


@dataclass(frozen=True, slots=True)
class ErrorResponseConverter:
    """Converter of error responses to exceptions, for requests that were sent with one key.

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
        status, text = response.status_code, self.mask(decode_server_response(response))
        error = _error_in_answer(decode_json_object(text))
        code = error.code
        stated = " ".join((error.message or text).split()) or "nothing"
        message = self.redact(f"HTTP {status} from {response.url}: {stated}")
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
        return RequestRejectedError(message, status=status, code=code, field=error.field)

    def mask(self, text: str) -> str:
        """Replace the API key in a text from the server, which may be JSON, by asterisks."""
        return _pattern_of_key(self.key).sub("***", text) if len(self.key) >= _SECRET else text

    def redact(self, text: str) -> str:
        """Remove the API key from an error message of the server, and shorten the message."""
        return shorten_server_message(self.mask(text))

    def _unauthorised(self, message: str) -> BackendError:
        names = " or ".join(self.address.provider.keys)
        if self.key:
            return BackendError(message, remedy=f"The server refuses the key in {names}; set a valid key")
        if not self.address.private:
            return BackendError(
                message, remedy="No key was sent, since http to another machine is not encrypted; use https"
            )
        return BackendError(message, expected=f"a key in the environment variable {names}", remedy="Set it")


def _pattern_of_key(key: str) -> re.Pattern[str]:
    """Return a pattern that matches an API key even if some of its characters are escaped as in JSON."""
    forms = ((c, json.dumps(c)[1:-1], f"\\u{ord(c):04x}", f"\\u{ord(c):04X}", f"\\{c}" if c == "/" else c) for c in key)
    return re.compile("".join(f"(?:{'|'.join(map(re.escape, dict.fromkeys(form)))})" for form in forms))


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServerError:
    """The error that a server states, in any of the usual formats. Parts that the server does not state are empty."""

    message: str = ""
    code: str = ""
    field: str = ""


def _error_in_answer(body: Mapping[str, Any]) -> _ServerError:
    """Return the error that a JSON object states, in its field ``error`` or at its top level."""
    inner = body.get("error", body)
    if isinstance(inner, str):
        return _ServerError(message=inner)
    parts = {
        name: next((value for key in keys if isinstance(value := object_in_answer(inner).get(key), str)), "")
        for name, keys in (("message", ("message", "detail")), ("code", ("code", "type")), ("field", ("param",)))
    }
    return _ServerError(**parts)
