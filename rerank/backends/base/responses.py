"""What servers send: responses of any content, which always can be decoded, and failures of requests.

Values of a wrong type or range count as missing. Nothing here imports httpx2, which takes 0.1 s.
"""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rerank.errors import BackendError
from rerank.io.text_files import replace_lone_surrogates
from rerank.tasks import Reply

if TYPE_CHECKING:
    from rerank.backends.base.connection import ServerConnection

#: Larger numbers of tokens count as missing. Sums of accepted numbers fit into SQLite's integers of 64 bits.
MOST_TOKENS = 2**40
#: Maximum number of characters of a server message that are shown, and of the name of a model.
SHOWN, _NAME = 400, 200
#: Maximum number of digits that are converted to an integer; Python itself refuses more than 4300.
_DIGITS = 1000
#: Maximum attempts per request: in general, after timeouts, and if the server has never answered.
TRIES, SLOW_TRIES, FIRST_TRIES = 5, 2, 2
#: Seconds: the wait before the second attempt, which doubles with every further attempt, and the longest such wait.
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
_HTML = re.compile(r"\s*<(?:!doctype html|html|head|body)\b", re.I)
_TITLE, _TAG = re.compile(r"<title[^>]*>([^<]+)", re.I), re.compile(r"<[^>]*>")
#: Error codes of content filters.
_FILTERED = ("content_filter", "content_policy_violation")


@dataclass(frozen=True, slots=True)
class ServerResponse:
    """A complete HTTP response with a success status."""

    text: str
    unreadable: str = ""
    value: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _decode_json(self.text))

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object in the response; empty if the response is not a JSON object."""
        return object_in(self.value)


def decode_json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text, without lone surrogates; empty if the text is not a JSON object."""
    return object_in(_decode_json(text))


def _decode_json(text: str) -> Any:
    try:
        body = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= _DIGITS else math.inf)
        if "\\ud" in text or "\\uD" in text:  # an escaped surrogate, perhaps without its other half
            body = json.loads(replace_lone_surrogates(json.dumps(body, ensure_ascii=False)))
    except (ValueError, RecursionError):  # RecursionError: nested too deeply
        return None
    return body


def count_in(value: Any) -> int:
    """Return a number of tokens that a server states; 0 if it is not an integer from 1 to `MOST_TOKENS`."""
    return value if type(value) is int and 0 < value <= MOST_TOKENS else 0


def name_in(value: Any) -> str:
    """Return a name that a server states, shortened to `_NAME` characters; empty if it is not a text."""
    return value[:_NAME] if isinstance(value, str) else ""


def object_in(value: Any) -> dict[str, Any]:
    """Return a value if it is a JSON object; otherwise return an empty dictionary."""
    return value if isinstance(value, dict) else {}


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Return the items of a JSON list, with an empty dictionary for each item that is not an object."""
    return list(map(object_in, value)) if isinstance(value, list) else []


def describe_content(text: str) -> str:
    """Return the text of a response for messages, or the title of a page, such as one of a proxy.

    >>> describe_content("<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>")
    'an HTML page (502 Bad Gateway)'
    """
    if not _HTML.match(text):
        return text or "nothing"
    title = _TITLE.search(text[: 10 * SHOWN])
    words = " ".join(html.unescape(title[1] if title else _TAG.sub(" ", text[: 10 * SHOWN])).split())
    return f"an HTML page ({words[:100]})"


def shorten(text: str) -> str:
    """Return the first `SHOWN` characters of a text as one line."""
    line = " ".join(text[: 10 * SHOWN].split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"


class RequestFailedError(Exception):
    """Raised if a request got no valid reply; the request may be retried.

    ``after`` is the number of seconds to wait before the next attempt, if the server states it, and ``tries`` the
    maximum number of attempts; 1 if another attempt cannot help.
    """

    def __init__(self, message: str, *, after: float | None = None, tries: int = TRIES) -> None:
        super().__init__(message)
        self.after, self.tries = after, tries


class RequestRejectedError(Exception):
    """Raised if the server refused a request as invalid, so that retrying cannot help.

    The server's error code and the name of the invalid field are empty if it states none.
    """

    def __init__(self, message: str, *, status: int, code: str = "", field: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.field = status, code, field


class KeyRejectedError(BackendError):
    """Raised if the server refuses the key, or requires one that is missing."""


class ServerUnavailableError(BackendError):
    """Raised if a server does not answer a request that another server could answer."""

    attempts = 0
    tries = 1
    is_silent = False


class Attempts:
    """The attempts of one request to a server, which may need several exchanges."""

    def __init__(self, connection: ServerConnection) -> None:
        self.count = 0
        self._connection, self._contacts = connection, connection.contacts

    @property
    def is_silent(self) -> bool:
        """Whether the server has responded to no request at all since this request began."""
        return self._connection.contacts == self._contacts

    @property
    def retries(self) -> int:
        return max(0, self.count - 1)

    def unavailable(self, error: RequestFailedError, remedy: str) -> ServerUnavailableError:
        failed = ServerUnavailableError(str(error), remedy=remedy)
        failed.attempts, failed.tries, failed.is_silent = self.count, error.tries, self.is_silent
        return failed

    def failed_reply(self, error: RequestFailedError | RequestRejectedError, model: str) -> Reply:
        """Return the reply to a request that failed or was rejected.

        Raises `ServerUnavailableError` if there is no connection to the server, or the request failed and there
        are other servers; and `BackendError` if the model or the path does not exist on the server, so no other
        request can be answered either.
        """
        if isinstance(error, RequestFailedError):
            if self.is_silent or self._connection.has_other_server is not None:
                remedy = "Check the address and the network, or start the server; --resume keeps committed calls"
                raise self.unavailable(error, remedy) from error
            return Reply(finish="error", error=str(error))
        if error.status in (404, 405):
            raise BackendError(
                f"Model {model!r}: {error}", remedy="Check the model's name, and --base-url if it is set"
            ) from error
        return Reply(finish="refused") if error.code in _FILTERED else Reply(finish="error", error=str(error))
