"""What a suite's file says, made ready to be checked, and what is wrong with it in words. Knows no field of a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rerank.errors import UnknownNameError, UsageError, describe_fault

#: What stands in a suite for the folder of ``--data``.
DATA = "{data}"


def check_unique(what: str, values: Sequence[Any]) -> None:
    """Refuse a value that stands twice; as a ValueError, which pydantic collects."""
    value, times = Counter(values).most_common(1)[0] if values else ("", 1)
    if times > 1:
        named = "; give each a name of its own" if what == "collections" else ""
        raise ValueError(f"{what} has {value!r} {times} times{named}")


def normalize_keys(values: Any) -> Any:
    """The same with underscores for dashes in all keys."""
    if isinstance(values, Mapping):
        return {str(key).replace("-", "_"): normalize_keys(value) for key, value in values.items()}
    return [normalize_keys(one) for one in values] if isinstance(values, list) else values


def insert_data_folder(values: Any, data: str | Path | None) -> Any:
    """The values with the folder of ``--data`` where they name it."""
    if isinstance(values, Mapping):
        return {key: insert_data_folder(value, data) for key, value in values.items()}
    if isinstance(values, list):
        return [insert_data_folder(one, data) for one in values]
    if not isinstance(values, str) or DATA not in values:
        return values
    if data is None:
        raise UsageError(
            f"The suite names {values!r}, and no folder stands for {DATA}",
            remedy="Say where its files lie: --data FOLDER",
        )
    return values.replace(DATA, str(data))


def check_keys(kind: str, table: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse a key that does not exist; the message suggests the nearest."""
    for key in table:
        if key not in set(names):
            raise UnknownNameError(kind, key, names)


def to_usage_error(error: ValidationError) -> UsageError:
    """The first problem, in our words."""
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return UsageError(
            f"The suite has no {where}",
            expected="it to be given",
            remedy='The least that a suite says: name = "mine", collections = ["pydoc"], models = ["smollm2-135m"]',
        )
    shown = "" if isinstance(problem["input"], dict) else f" = {problem['input']!r:.80}"
    message = describe_fault(problem)
    return UsageError(f"{where}{shown}: {message}" if where else f"The suite: {message}")
