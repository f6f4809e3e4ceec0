"""The exception classes of this package and the exit codes of the command.

    RerankError                    exit code of the command
    |-- UsageError                 2   invalid arguments
    |   |-- UnknownNameError           a name that is not registered, with a suggestion
    |   `-- ContextOverflowError       a prompt that does not fit the model's context
    |-- MissingPrerequisiteError   3   an extra or a program that is not installed
    |-- MissingResourceError       4   a file, folder, model or collection that does not exist
    |-- DataError                  5   a file or value that is invalid
    |-- BackendError               6   a model, a server or a worker process failed
    |   `-- StorageError               a file could not be written
    |-- PartialFailureError        7   finished, but more of the work failed than was allowed
    `-- GateError                  8   a comparison does not meet the condition of ``rerank compare --fail-if``

Errors that Python defines (such as ``TypeError`` for a wrong call) are not wrapped.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_MAX_NAMES = 12  #: Maximum number of names listed in a message.
_MAX_NAME = 200  #: Maximum number of characters of an unknown name that are compared and shown.


class RerankError(Exception):
    """Base class of all errors. The message states what was found, what was expected, and what to do.

    ``found`` contains the offending value and its location. ``expected`` and ``remedy`` (an imperative) may be empty.
    """

    exit_code = 1

    def __init__(self, found: str, *, expected: str = "", remedy: str = "") -> None:
        self.found = found
        self.expected = expected
        self.remedy = remedy
        wrong = f"{_message_without_period(found)}; expected {expected}" if expected else found
        message = ". ".join(_message_without_period(part) for part in (wrong, remedy) if part)
        super().__init__(_LONG_WORD.sub(r"\1…\2", message) if len(message) > _LONG else message)


_LONG = 500
#: A word that is longer than any name or path that a reader can use; the beginning and the end of it are shown.
_LONG_WORD = re.compile(rf"(?<!\S)(\S{{60}})\S{{{_LONG - 80},}}(\S{{20}})(?!\S)")


def _message_without_period(text: str) -> str:
    """Return a text without its final period; an ellipsis is kept, since it may be part of a selector's usage."""
    return text if text.endswith("...") else text.rstrip(".")


def error_repr(value: object, limit: int = 60) -> str:
    """Return the ``repr`` of a value, truncated to ``limit`` characters, for messages."""
    text = repr(value[:limit] if isinstance(value, str) else value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def describe_pydantic_error(fault: Mapping[str, Any]) -> str:
    """Describe a validation error of pydantic for users who write TOML.

    >>> describe_pydantic_error({"type": "tuple_type", "msg": "Input should be a valid tuple", "input": "AP"})
    'should be a list, as in ["AP"]'
    """
    if fault["type"] in ("tuple_type", "list_type"):
        return f"should be a list, as in [{json.dumps(fault['input'], default=str)}]"
    if str(fault["type"]).startswith("bool_"):
        return "should be true or false"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return "is not a known key"
    return str(fault["msg"]).removeprefix("Value error, ").replace("Input should", "should")


def expected_value_of_fault(fault: Mapping[str, Any]) -> str:
    """Return what pydantic expected instead of an invalid value, for messages about flags and options.

    >>> expected_value_of_fault({"msg": "Input should be greater than or equal to 1"})
    'at least 1'
    >>> expected_value_of_fault({"msg": "Input should be a valid integer, unable to parse string as an integer"})
    'a valid integer'
    >>> expected_value_of_fault({"msg": "List should have at least 2 items after validation, not 1"})
    'at least 2 items'
    """
    text = str(fault["msg"]).removeprefix("Value error, ").partition(", unable")[0].partition(" after validation")[0]
    text = re.sub(r"^(Input|List|Tuple|Dictionary|String) should (be|have) ", "", text)
    bounds = {"greater than or equal to": "at least", "less than or equal to": "at most", "greater than": "more than"}
    for words, bound in bounds.items():
        text = text.replace(words, bound)
    return text


class UsageError(RerankError):
    """Arguments are invalid, alone or in combination."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name is not registered; the message suggests similar names."""

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        if_none: str = "None is installed",
        otherwise: str = "",
        limit: int = _MAX_NAMES,
    ) -> None:
        """Build the message from the unknown and the known names, of which at most ``limit`` are listed.

        ``kind`` is what the name refers to, such as ``strategy``. The remedy is ``if_none`` if no name is known, and
        ``otherwise`` if no known name is similar.
        """
        choices = sorted(known)
        near = difflib.get_close_matches(name[:_MAX_NAME], choices, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
        more = f" and {len(choices) - limit} more" if len(choices) > limit else ""
        super().__init__(
            f"Unknown {kind} {error_repr(name, _MAX_NAME)}",
            expected=f"one of: {', '.join(choices[:limit])}{more}" if choices else "",
            remedy=(hint or otherwise) if choices else if_none,
        )
        self.suggestions = near


class ContextOverflowError(UsageError):
    """A prompt does not fit the model's context even if its passages are truncated to their minimum length."""


class MissingPrerequisiteError(RerankError):
    """An optional dependency or program is not installed."""

    exit_code = 3


class MissingResourceError(RerankError):
    """A file, folder, model or collection does not exist."""

    exit_code = 4


class DataError(RerankError):
    """A file or value exists but is invalid."""

    exit_code = 5


class BackendError(RerankError):
    """A model, a server or a worker process failed."""

    exit_code = 6


class StorageError(BackendError):
    """A file could not be written; everything saved before is kept."""


class PartialFailureError(RerankError):
    """The work is finished and saved, but more of it failed than was allowed."""

    exit_code = 7


class GateError(RerankError):
    """A run may not replace another one: their comparison meets the condition under which a gate fails."""

    exit_code = 8


def ensure(
    holds: object, found: str, *, expected: str = "", remedy: str = "", error: type[RerankError] = UsageError
) -> None:
    """Raise ``error`` with the three parts of its message unless ``holds`` is true.

    The message is built in any case, so its parts must be cheap and must not fail while the condition holds.
    """
    if not holds:
        raise error(found, expected=expected, remedy=remedy)
