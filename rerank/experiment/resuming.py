"""Settings of a resumed run: those that the user omits are read from the run folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank.assemble import trained_settings
from rerank.store import RunFolder


def complete_from_folder(given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Complete a run specification from the folder of the run that is resumed.

    The values in spec.json precede the defaults, so that a run can be resumed after a default has changed.

    Args:
        given: The values from flags and from the ``--spec`` file.
        path: The run folder. If it contains no spec.json, the values start a new run, and nothing is added.

    Returns:
        The given values, completed from spec.json. Settings that come from the adapter are read from the adapter again,
        because the paths in spec.json may be those of another machine.

    Raises:
        MissingResourceError: The folder is not a run folder, and the values do not name a collection for a new run.
    """
    if "collection" in given and not (path / "spec.json").is_file():
        return dict(given)
    document = RunFolder.existing(path).spec()
    recorded = _earlier_defaults(document["identity"].get("model", {})) | document["spec"]
    values: dict[str, Any] = {name: value for name, value in recorded.items() if value is not None} | dict(given)
    named: dict[str, Any] = {name: values[name] for name in ("adapter", "model") if name in values}
    for name, value in trained_settings(named).items():
        if name not in given and _without_folders(recorded.get(name)) == _without_folders(value):
            values[name] = value
    return values


def _earlier_defaults(model: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a run that its spec.json does not name because they could not be chosen then.

    Args:
        model: The identity of the run's model.
    """
    is_mixed = "adapter" in model and "adapter_dtype" not in model and model["dtype"] != "float32"
    return {"adapter_dtype": "float32"} if is_mixed and "engine" not in model else {}


def _without_folders(value: object) -> object:
    """Return a setting with files shortened to their names: ``heads=a/b.json`` becomes ``heads=b.json``."""
    return re.sub(r"[^=,]*/", "", value) if isinstance(value, str) else value
