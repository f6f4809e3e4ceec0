"""Runs and judgments as JSON: ``{query: {document: number}}``. Knows JSON's traps, not what the numbers are for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rerank.errors import DataError, shorten
from rerank.types import float32

Number = TypeVar("Number", int, float)

#: The largest grade. A file with a larger one has its columns mixed up, and trec_eval counts in arrays of this size.
MAX_GRADE = 999_999
GRADES = "a whole number of at most six digits"


def score(value: object) -> float:
    """A finite number in single precision.

    Raises:
        ValueError: It is none; the message says what was expected.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) == math.inf:
        raise ValueError("a finite number")
    return float32(value)


def grade(value: object) -> int:
    """A whole number; 1.0 is 1.

    Raises:
        ValueError: It is none, or too large; the message says what was expected.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_GRADE:
        raise ValueError(GRADES)
    return value


def read_table(text: str, source: str, convert: Callable[[object], Number]) -> dict[str, dict[str, Number]]:
    """Parse the nested object and convert its numbers.

    Args:
        text: The JSON.
        source: The file's name, for messages.
        convert: `score` or `grade`.

    Raises:
        DataError: No JSON, another shape, a key twice in one object, no document at all, or a wrong number.
    """
    try:
        table = json.loads(text, object_pairs_hook=_unique)
    except _TwiceError as error:
        raise DataError(f"{source}: the key {error.args[0]!r} stands twice in one object") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{source} starts like JSON and is none: {error}",
            expected="one object, or another format of runs and judgments",
            remedy="Of a file that `rerank qrels judge` made, take the one of its --qrels-out",
        ) from error
    result = {query: _row(found, convert, f"{source}: query {query!r}") for query, found in table.items()}
    if not any(result.values()):
        raise DataError(f"{source} holds no documents", expected="at least one")
    return result


def _row(found: object, convert: Callable[[object], Number], where: str) -> dict[str, Number]:
    if not isinstance(found, Mapping):
        raise DataError(f"{where} has {shorten(found)}", expected="an object of document ids and numbers")
    row: dict[str, Number] = {}
    for doc, value in found.items():
        try:
            row[doc] = convert(value)
        except ValueError as error:
            raise DataError(f"{where} has {shorten(value)} for document {doc!r}", expected=str(error)) from error
    return row


class _TwiceError(Exception):
    """A key that an object has twice; Python's own reader would keep the last and say nothing."""


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise _TwiceError(key)
        table[key] = value
    return table
