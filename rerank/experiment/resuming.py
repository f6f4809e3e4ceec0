"""Settings of a resumed run: those that the user omits are read from the run folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank.assemble import trained_ranker_defaults
from rerank.experiment.spec import LATER_KEYS
from rerank.selector import Selector
from rerank.store import RunFolder


def complete_from_folder(given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Complete a run specification from the folder of the run that is resumed.

    All values in spec.json, null as well, precede the defaults, so that a run can be resumed after a default has
    changed.

    Args:
        given: The values from flags and from the ``--spec`` file.
        path: The run folder. If it contains no spec.json, the values start a new run, and nothing is added.

    Returns:
        The given values, completed from spec.json. Files of the adapter that are no longer where they were, such as
        those of another machine, are replaced by the same files in the folder of the adapter.

    Raises:
        DataError: The folder's spec.json is invalid.
        MissingResourceError: The folder is not a run folder, and the values do not name a collection for a new run.
    """
    if "collection" in given and not (path / "spec.json").is_file():
        return dict(given)
    document = RunFolder.existing(path).spec()
    recorded = document["spec"]
    earlier = _earlier_spec_defaults(document["identity"].get("model", {}))
    values: dict[str, Any] = {**LATER_KEYS, **earlier, **recorded, **given}
    named: dict[str, Any] = {name: values[name] for name in ("adapter", "model") if name in values}
    for name, value in trained_ranker_defaults(named).items():
        if name not in given and _has_moved_files(recorded.get(name), value):
            values[name] = value
    return values


def _earlier_spec_defaults(model: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a run that its spec.json does not name because they could not be chosen then.

    Args:
        model: The identity of the run's model.
    """
    is_mixed = "adapter" in model and "adapter_dtype" not in model and model["dtype"] != "float32"
    return {"adapter_dtype": "float32"} if is_mixed and "engine" not in model else {}


def _has_moved_files(recorded: object, own: object) -> bool:
    """Return whether a recorded setting names the same files as the adapter's own, and they are no longer there.

    A file of the user may have the same name as the adapter's; as long as it exists, it is the one that was used.
    """
    if recorded == own or _without_file_folders(recorded) != _without_file_folders(own):
        return False
    options, own_options = (Selector.parse(str(value)).options for value in (recorded, own))
    files = [value for key, value in options.items() if value != own_options.get(key)] or [str(recorded)]
    return not all(Path(file).is_file() for file in files)


def _without_file_folders(value: object) -> object:
    """Return a setting with files shortened to their names: ``heads=a/b.json`` becomes ``heads=b.json``."""
    return re.sub(r"[^=,]*/", "", value) if isinstance(value, str) else value
