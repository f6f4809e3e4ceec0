"""Descriptions, for messages, of the differences between the run in a folder and a run to be written to the folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Fields of a specification that are not part of a run's identity.
_NOT_IN_IDENTITY = {"measures", "relevant", "qrels", "max_failure_rate"}


def describe_run_folder_differences(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two runs: their options or, if these are equal, other parts of the identity.

    Args:
        recorded: The content of spec.json in the folder.
        requested: The content of spec.json for the run to be written.

    Returns:
        One clause per difference.
    """
    for part, ignored in (("spec", _NOT_IN_IDENTITY), ("identity", set())):
        old, new = _with_properties_of_model(recorded.get(part, {})), _with_properties_of_model(requested[part])
        keys = [key for key in {**old, **new} if key not in ignored and old.get(key) != new.get(key)]
        if keys:
            return [_describe_one_run_folder_difference(part, key, old.get(key), new.get(key)) for key in keys]
    return ["its hash is different"]


def _with_properties_of_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with one key for each property of its model, such as the commit; other values as they are."""
    model = values.get("model")
    if isinstance(model, Mapping) and {"weights", "revision"} & model.keys():  # loaded from files
        return {**values, **model}
    return {**values}


def _describe_one_run_folder_difference(part: str, key: str, old: object, new: object) -> str:
    if (part, key) == ("identity", "first_stage"):  # the values are hashes, which would not help the user
        return "its candidates (queries, documents or their texts) differ"
    return f"{key} is {_shorten_run_folder_value(old)} there and {_shorten_run_folder_value(new)} here"


#: Commands that write the same files but select queries differently: `rerank run` uses the queries with relevance
#: judgments, `rerank rerank` uses all queries.
_COMMANDS = ("run", "rerank")


def other_command_of_run_folder(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Return the command that created a folder if it differs from the current command; empty if equal or unknown."""
    old, new = (str(part.get("environment", {}).get("command")).split(" ")[-1] for part in (recorded, requested))
    return f"rerank {old}" if {old, new} == {*_COMMANDS} else ""


def _shorten_run_folder_value(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def other_commit_of_run_folder(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Return the commit of the model in a folder if the requested run differs only in the commit; else empty."""
    old, new = (_with_properties_of_model(part.get("identity", {})) for part in (recorded, requested))
    commit, other = (str(identity.pop("revision", "")) for identity in (old, new))
    return commit if old == new and commit != other else ""
