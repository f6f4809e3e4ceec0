"""Descriptions of how a run in a folder differs from the run that is to be written to it, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Fields of a specification that are not part of a run's identity.
_NOT_IN_IDENTITY = {"measures", "relevant", "qrels", "max_failure_rate"}


def describe_run_folder_differences(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Describe how two runs differ: in their options or, if these are equal, in the other parts of the identity."""
    for part, ignored in (("spec", _NOT_IN_IDENTITY), ("identity", set())):
        old, new = recorded.get(part, {}), requested[part]
        keys = [key for key in {**old, **new} if key not in ignored and old.get(key) != new.get(key)]
        if keys:
            return [_describe_one_run_folder_difference(part, key, old.get(key), new.get(key)) for key in keys]
    return ["its hash is different"]


def _describe_one_run_folder_difference(part: str, key: str, old: object, new: object) -> str:
    if (part, key) == ("identity", "first_stage"):  # a hash, which would not help the user
        return "its candidates (queries, documents or their texts) differ"
    return f"{key} is {_shorten_run_folder_value(old)} there and {_shorten_run_folder_value(new)} here"


#: Commands that write the same files but select queries differently: `rerank run` uses the queries with relevance
#: judgments, `rerank rerank` uses all queries.
_COMMANDS = ("run", "rerank")


def other_command_of_run_folder(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Return the command that created a folder if another one is executed now; empty if it is the same or unknown."""
    old, new = (str(part.get("environment", {}).get("command")).split(" ")[-1] for part in (recorded, requested))
    return f"rerank {old}" if {old, new} == {*_COMMANDS} else ""


def _shorten_run_folder_value(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
