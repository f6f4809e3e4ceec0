"""Decode the responses of servers. Any bytes can be decoded; values of a wrong type or range count as missing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import httpx2

from rerank.io.text_files import replace_lone_surrogates

#: Larger numbers of tokens count as missing. Sums of accepted numbers fit into SQLite's integers of 64 bits.
MOST_TOKENS = 2**40
#: Maximum number of characters of a server message that are shown.
SHOWN = 400
#: Maximum number of characters of the name of a model.
_NAME = 200
#: Maximum number of digits that are converted to an integer; Python itself refuses more than 4300.
_DIGITS = 1000


@dataclass(frozen=True, slots=True)
class ServerResponse:
    """A complete HTTP response with a success status.

    Attributes:
        text: The body of the response.
        unreadable: Error message for the user if the body was not read completely; otherwise empty.
        value: The parsed JSON value, such as a list; None if the body is not valid JSON.
    """

    text: str
    unreadable: str = ""
    value: Any = field(init=False)

    def __post_init__(self) -> None:
        """Decode the JSON value."""
        object.__setattr__(self, "value", _decode_json(self.text))

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object in the response; empty if the response is not a JSON object."""
        return object_in_answer(self.value)


def decode_server_response(response: httpx2.Response) -> str:
    """Decode a response as Unicode. A stated charset is ignored, since JSON is Unicode and decoding must not fail."""
    return response.content.decode(json.detect_encoding(response.content), "replace")


def decode_json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text, without lone surrogates; empty if the text is not a JSON object."""
    return object_in_answer(_decode_json(text))


def _decode_json(text: str) -> Any:
    try:
        body = json.loads(text, parse_int=_parse_json_integer)
        if "\\ud" in text or "\\uD" in text:  # an escaped surrogate, perhaps without its other half
            body = json.loads(replace_lone_surrogates(json.dumps(body, ensure_ascii=False)))
    except (ValueError, RecursionError):  # RecursionError: nested too deeply
        return None
    return body


def _parse_json_integer(digits: str) -> float:
    return int(digits) if len(digits) <= _DIGITS else math.inf


def token_count_in_answer(value: Any) -> int:
    """Return a number of tokens that a server states; 0 if it is not an integer from 1 to `MOST_TOKENS`."""
    return value if type(value) is int and 0 < value <= MOST_TOKENS else 0


def name_in_answer(value: Any) -> str:
    """Return a name that a server states, shortened to `_NAME` characters; empty if it is not a text."""
    return value[:_NAME] if isinstance(value, str) else ""


def object_in_answer(value: Any) -> dict[str, Any]:
    """Return a value from an answer if it is a JSON object; otherwise return an empty dictionary."""
    return value if isinstance(value, dict) else {}


def shorten_server_message(text: str) -> str:
    """Return the first `SHOWN` characters of a text as one line."""
    line = " ".join(text[: 10 * SHOWN].split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
