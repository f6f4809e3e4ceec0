"""Every error this package raises on purpose, one tree, drawn here.

    RerankError                    exit code of the command
    |-- UsageError                 2   arguments that make no sense
    |   |-- UnknownNameError           a name that is not registered, with a suggestion
    |   `-- ContextOverflowError       a prompt that cannot fit the model's context
    |-- MissingPrerequisiteError   3   an extra or a program that is not installed
    |-- MissingResourceError       4   a file, folder, model or collection that is not there
    |-- DataError                  5   a file or value that is there and is wrong
    |-- BackendError               6   the model or the server failed
    |   `-- StorageError               the disk did
    `-- PartialFailureError        7   finished, but more failed than was allowed

Errors that Python already names (``TypeError`` for a call that does not fit) stay Python's. This module knows
nothing of what the rest of the package does.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

#: How many names a message lists.
_SHOWN = 12


class RerankError(Exception):
    """Base of all errors: what was found, what was expected, what to do.

    Args:
        found: What is wrong, naming the offending value and where it stood.
        expected: What would have been right; left out where ``found`` says it.
        remedy: What the reader can do about it, as an imperative.
    """

    exit_code = 1

    def __init__(self, found: str, *, expected: str = "", remedy: str = "") -> None:
        """Keep the three parts apart, so that JSON output can show them so."""
        self.found = found
        self.expected = expected
        self.remedy = remedy
        parts = [found, f"expected {expected}" if expected else "", remedy]
        super().__init__(". ".join(part.rstrip(".") for part in parts if part))


def shorten(value: object, limit: int = 60) -> str:
    """A value as a message shows it: its ``repr``, cut to ``limit`` characters."""
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def in_words(fault: Mapping[str, Any]) -> str:
    """What pydantic found wrong with a value, for people who write TOML.

    >>> in_words({"type": "tuple_type", "msg": "Input should be a valid tuple", "input": "AP"})
    'should be a list, as in ["AP"]'
    """
    if fault["type"] in ("tuple_type", "list_type"):
        return f"should be a list, as in [{json.dumps(fault['input'], default=str)}]"
    if str(fault["type"]).startswith("bool_"):
        return "should be true or false"
    return str(fault["msg"]).removeprefix("Value error, ").replace("Input should", "should")


class UsageError(RerankError):
    """Arguments that make no sense, alone or together."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not registered; suggests the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, if_none: str = "None is installed") -> None:
        """Build the message from what was asked for and what there is, or from ``if_none`` where there is nothing."""
        choices = sorted(known)
        near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else ""
        more = f" and {len(choices) - _SHOWN} more" if len(choices) > _SHOWN else ""
        super().__init__(
            f"Unknown {kind} {name!r}",
            expected=f"one of: {', '.join(choices[:_SHOWN])}{more}" if choices else "",
            remedy=hint if choices else if_none,
        )
        self.suggestions = near


class ContextOverflowError(UsageError):
    """A prompt that does not fit the model's context even at the floor of the passage budget."""


class MissingPrerequisiteError(RerankError):
    """An optional dependency or program that is not installed."""

    exit_code = 3


class MissingResourceError(RerankError):
    """A file, folder, model or collection that is not where it was looked for."""

    exit_code = 4


class DataError(RerankError):
    """A file or value that is there and is wrong."""

    exit_code = 5


class BackendError(RerankError):
    """The model or the server failed."""

    exit_code = 6


class StorageError(BackendError):
    """A file could not be written; what was committed before stays."""


class PartialFailureError(RerankError):
    """The work is finished and saved, but more of it failed than was allowed."""

    exit_code = 7
