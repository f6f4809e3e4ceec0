"""Parsing of runs and judgments in JSON, in the form ``{query: {document: number}}``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rerank.errors import DataError, error_repr
from rerank.types import ranking_score_to_float32

Number = TypeVar("Number", int, float)

#: The largest accepted grade. A larger number means that columns are mixed up, and trec_eval would allocate arrays of
#: that size.
MAX_GRADE = 999_999
GRADES = "a whole number of at most six digits"


def convert_json_table_score(value: object) -> float:
    """Return a score in single precision, after checking that it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) == math.inf:
        raise ValueError("a finite number")
    return ranking_score_to_float32(value)


def json_file_value_to_grade(value: object) -> int:
    """Return a grade as an integer; floats that are whole numbers, such as 1.0, are converted."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_GRADE:
        raise ValueError(GRADES)
    return value


def parse_json_table(text: str, source: str, convert: Callable[[object], Number]) -> dict[str, dict[str, Number]]:
    """Parse a run or judgments in JSON into a mapping query id -> document id -> number.

    Args:
        text: The JSON text.
        source: Name of the file in messages.
        convert: Function that checks and converts a number: `convert_json_table_score` or `json_file_value_to_grade`.
    """
    try:
        table = json.loads(text, object_pairs_hook=_unique_table_keys)
    except _DuplicateKeyError as error:
        raise DataError(f"{source}: the key {error.args[0]!r} occurs twice in one object") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{source} starts like JSON but is not valid: {error}",
            expected="one JSON object, or another format of runs and judgments",
            remedy="For output of `rerank qrels judge`, use the file written by --qrels-out",
        ) from error
    result = {
        query: _convert_json_table_row(row, convert, f"{source}: query {query!r}") for query, row in table.items()
    }
    if not any(result.values()):
        raise DataError(f"{source} contains no documents", expected="at least one")
    return result


def _convert_json_table_row(value: object, convert: Callable[[object], Number], where: str) -> dict[str, Number]:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} has {error_repr(value)}", expected="an object of document ids and numbers")
    row: dict[str, Number] = {}
    for doc, number in value.items():
        try:
            row[doc] = convert(number)
        except ValueError as error:
            raise DataError(f"{where} has {error_repr(number)} for document {doc!r}", expected=str(error)) from error
    return row


class _DuplicateKeyError(Exception):
    """A key occurs twice in an object; Python's JSON parser would silently keep only the last value."""


def _unique_table_keys(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise _DuplicateKeyError(key)
        table[key] = value
    return table
