"""Settings of a resumed run: settings that the user omits are read from the run folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rerank.assemble import assembly_defaults
from rerank.experiment.prepare import PreparedRun
from rerank.experiment.spec import LATER_KEYS, complete_spec_from_file
from rerank.io.paths import named_path_errors
from rerank.selector import Selector
from rerank.store import RunFolder
from rerank.tasks import Backend
from rerank.tasks.backends import BackendWrapper, lacks_commit

_log = logging.getLogger(__name__)


@named_path_errors()
def complete_resumed_spec(given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Complete a run specification from the folder of the run to resume.

    All values in spec.json, including null, override the defaults, so that a run can be resumed after a default has
    changed. If a recorded file of the adapter no longer exists at its path, for example because the run was started on
    another machine, the path is replaced by that of the same file in the adapter's folder. Without a spec.json, the
    given values specify a new run and are not changed.
    """
    if "collection" in given and not (path / "spec.json").is_file():
        return dict(given)
    document = RunFolder.existing(path).spec()
    recorded = document["spec"]
    earlier = _earlier_defaults(document["identity"].get("model", {}))
    values = complete_spec_from_file(given, {**LATER_KEYS, **earlier, **recorded}, path / "spec.json")
    named: dict[str, Any] = {name: values[name] for name in ("adapter", "model") if name in values}
    for name, value in assembly_defaults(named).items():
        if name not in given and _has_moved(recorded.get(name), value):
            values[name] = value
    return values


def continue_without_commit(prepared: PreparedRun, folder: RunFolder) -> PreparedRun:
    """Return the run with the model's recorded identity if the folder is of a version that recorded no commit.

    Otherwise the run would be another one, and its logged calls could not be used. A notice is logged, because the
    weights of the first calls are not known.
    """
    if not (folder.path / "spec.json").is_file():
        return prepared
    recorded, current = folder.spec()["identity"].get("model", {}), prepared.backend.identity
    if not isinstance(recorded, Mapping) or not lacks_commit(recorded, current, prepared.spec.revision or ""):
        return prepared
    _log.warning(
        "%s was written by a version that did not record the commit of %s; the run continues with commit %s",
        folder.path,
        current["model"],
        current["revision"][:12],
    )
    backend = cast(Backend, _WithIdentity(prepared.backend, recorded))
    return replace(prepared, backend=backend, judge=prepared.judge.with_backend(backend))


class _WithIdentity(BackendWrapper):
    """A backend with another identity; everything else is that of the wrapped backend."""

    def __init__(self, backend: Backend, identity: Mapping[str, str]) -> None:
        self.backend, self._identity = backend, dict(identity)

    @property
    def identity(self) -> Mapping[str, str]:
        return self._identity


def _earlier_defaults(model: Mapping[str, str]) -> dict[str, str]:
    """Return values for settings that the version that wrote spec.json lacked, so that the run behaves as then."""
    is_mixed = "adapter" in model and "adapter_dtype" not in model and model["dtype"] != "float32"
    return {"adapter_dtype": "float32"} if is_mixed and "engine" not in model else {}


def _has_moved(recorded: object, own: object) -> bool:
    """Return whether a recorded setting differs from the adapter's only in folders, and one of its files is missing.

    A user's file may have the same name as the adapter's file; if the user's file still exists, it is the one to use.
    """
    if recorded == own or _without_folders(recorded) != _without_folders(own):
        return False
    options, own_options = (Selector.parse(str(value)).options for value in (recorded, own))
    files = [value for key, value in options.items() if value != own_options.get(key)] or [str(recorded)]
    return not all(Path(file).is_file() for file in files)


def _without_folders(value: object) -> object:
    """Return a setting with paths shortened to file names: ``heads=a/b.json`` becomes ``heads=b.json``."""
    return re.sub(r"[^=,]*/", "", value) if isinstance(value, str) else value
