"""The folder of a suite: which runs in it are finished, what they took, and how fast each model was.

Knows run folders, not suites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError
from rerank.experiment.prepare import PreparedRun
from rerank.experiment.spec import RunSpec
from rerank.judges.attention.heads import model_identity
from rerank.leaderboard.suites.planning_backend import PlanningBackend
from rerank.store import RunFolder

#: What two runs of one model have in common.
_MODEL = ("model", "adapter", "base_url")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """One run folder.

    Attributes:
        folder: It.
        document: Its spec.json.
        summary: Its summary.json; None while the run is unfinished.
    """

    folder: RunFolder
    document: Mapping[str, Any]
    summary: Mapping[str, Any] | None

    def holds(self, prepared: PreparedRun, identity: Mapping[str, Any]) -> bool:
        """Whether it holds this run, which has this identity: the same candidates, prompt, settings and model.

        A model that was only described is the same if its name, its weights (or revision) and its adapter are, and it
        is asked for in the same number type; one that sees pictures also needs the same processor for them.
        """
        theirs, ours = dict(self.document["identity"]), dict(identity)
        model, wanted = dict(theirs.pop("model", {})), dict(ours.pop("model"))
        if theirs != ours:
            return False
        if not isinstance(prepared.backend, PlanningBackend):
            return model == wanted
        asked = {key: self.document["spec"].get(key) for key in ("model", "dtype")}
        if model.get("processor") != wanted.get("processor"):
            return False
        return model_identity(model) == model_identity(wanted) and asked == {
            key: getattr(prepared.spec, key) for key in asked
        }

    def replies(self) -> int:
        """How many are committed in it."""
        try:
            with self.folder.calls(readonly=True) as calls:
                return len(calls)
        except (MissingResourceError, DataError):  # killed before it was made, or before its table was
            return 0


def read_stored_runs(out: Path) -> list[StoredRun]:
    """All run folders that lie in a suite's folder.

    Raises:
        DataError: A file of one is no JSON or lacks a key.
    """
    return list(_folders(out))


def _folders(out: Path) -> Iterator[StoredRun]:
    for path in sorted(out.iterdir()) if out.is_dir() else []:
        if (path / "spec.json").is_file():
            folder = RunFolder(path)
            keys = ("calls", "tokens_in", "tokens_out", "seconds")
            summary = folder.read_json("summary.json", *keys) if folder.finished else None
            yield StoredRun(folder=folder, document=folder.spec(), summary=summary)


def estimate_seconds(kept: list[StoredRun], spec: RunSpec, tokens: int) -> float | None:
    """How long so many tokens take, by the finished runs of the same model, with the same method where there are some.

    Returns:
        Seconds of the model; None where no such run is finished.
    """
    model = [k for k in kept if k.summary and all(k.document["spec"].get(x) == getattr(spec, x) for x in _MODEL)]
    alike = [k for k in model if k.document["spec"].get("method") == spec.method] or model
    spent = sum(k.summary["tokens_in"] + k.summary["tokens_out"] for k in alike if k.summary)
    return sum(k.summary["seconds"] for k in alike if k.summary) * tokens / spent if spent else None
