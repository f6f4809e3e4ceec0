"""Normalisation and checks of the values in a suite's TOML file, and error messages for invalid values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rerank.errors import UnknownNameError, UsageError, describe_pydantic_error

#: Placeholder for the folder given with ``--data``.
DATA = "{data}"


def check_unique_in_suite(what: str, values: Sequence[Any]) -> None:
    """Raise a ValueError if a value occurs more than once. pydantic collects this error."""
    value, times = Counter(values).most_common(1)[0] if values else ("", 1)
    if times > 1:
        named = "; give each a unique name" if what == "collections" else ""
        raise ValueError(f"{what} contains {value!r} {times} times{named}")


def normalize_suite_keys(values: Any) -> Any:
    """Return the values with dashes in keys replaced by underscores, at all levels of nesting."""
    if isinstance(values, Mapping):
        return {str(key).replace("-", "_"): normalize_suite_keys(value) for key, value in values.items()}
    return [normalize_suite_keys(value) for value in values] if isinstance(values, list) else values


def insert_suite_data_folder(values: Any, data: str | Path | None) -> Any:
    """Return the values with ``{data}`` replaced by the folder given with ``--data``."""
    if isinstance(values, Mapping):
        return {key: insert_suite_data_folder(value, data) for key, value in values.items()}
    if isinstance(values, list):
        return [insert_suite_data_folder(value, data) for value in values]
    if not isinstance(values, str) or DATA not in values:
        return values
    if data is None:
        raise UsageError(
            f"The suite contains {values!r}, but no folder for {DATA} was given",
            remedy="Pass the folder of the suite's files: --data FOLDER",
        )
    return values.replace(DATA, str(data))


def check_suite_table_keys(kind: str, table: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise an UnknownNameError if a key of the table does not exist; the message suggests a similar name."""
    for key in table:
        if key not in set(names):
            raise UnknownNameError(kind, key, names)


def suite_usage_error(error: ValidationError) -> UsageError:
    """Return a UsageError for the first invalid value of a suite that pydantic found."""
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return UsageError(
            f"The suite has no {where}",
            expected=f"a value for {where}",
            remedy='A minimal suite: name = "mine", collections = ["pydoc"], models = ["smollm2-135m"]',
        )
    shown = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r:.80}"
    message = describe_pydantic_error(problem)
    return UsageError(f"{where}{shown}: {message}" if where else f"The suite is invalid: {message}")
