"""Run folders in the folder of a suite: finding stored runs, and estimating a model's speed from finished runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError
from rerank.experiment.prepare import PreparedRun
from rerank.experiment.spec import RunSpec
from rerank.judges.attention.heads import attention_judge_model_identity
from rerank.leaderboard.suites.planning_backend import PlanningBackend
from rerank.store import RunFolder
from rerank.tasks.identities import lacks_commit

#: Fields of a specification that identify the model.
_MODEL = ("model", "adapter", "base_url")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run folder of a suite, with its specification and summary.

    Attributes:
        folder: The run folder.
        document: Contents of spec.json.
        summary: Contents of summary.json; None while the run is unfinished.
    """

    folder: RunFolder
    document: Mapping[str, Any]
    summary: Mapping[str, Any] | None

    def holds(self, prepared: PreparedRun, identity: Mapping[str, Any]) -> bool:
        """Return True if the folder holds the given run, with the same candidates, prompt, settings and model.

        If the run has a planning backend, two models count as the same if name, weights (or revision), adapter and
        requested data type are equal; models that accept images must also have the same image processor.
        """
        theirs, ours = dict(self.document["identity"]), dict(identity)
        model, expected = dict(theirs.pop("model", {})), dict(ours.pop("model"))
        if theirs != ours:
            return False
        if lacks_commit(model, expected, prepared.spec.revision or ""):
            model["revision"] = expected["revision"]
        if not isinstance(prepared.backend, PlanningBackend):
            return model == expected
        requested = {key: self.document["spec"].get(key) for key in ("model", "dtype")}
        if model.get("processor") != expected.get("processor"):
            return False
        return attention_judge_model_identity(model) == attention_judge_model_identity(expected) and requested == {
            key: getattr(prepared.spec, key) for key in requested
        }

    def replies(self) -> int:
        """Return the number of replies that are already stored in the call log of the run folder."""
        try:
            with self.folder.calls(readonly=True) as calls:
                return len(calls)
        except (MissingResourceError, DataError):  # the run was killed before it created the call log
            return 0


def read_stored_suite_runs(out: Path) -> list[StoredRun]:
    """Read all run folders in a suite's folder."""
    return list(_iterate_suite_folders(out))


def _iterate_suite_folders(out: Path) -> Iterator[StoredRun]:
    for path in sorted(out.iterdir()) if out.is_dir() else []:
        if (path / "spec.json").is_file():
            folder = RunFolder(path)
            keys = ("calls", "tokens_in", "tokens_out", "seconds")
            summary = folder.read_json("summary.json", *keys) if folder.finished else None
            yield StoredRun(folder=folder, document=folder.spec(), summary=summary)


def estimate_suite_seconds(runs: list[StoredRun], spec: RunSpec, tokens: int) -> float | None:
    """Estimate how long a model takes for a number of tokens, from finished runs of the same model.

    If finished runs with the same method exist, only these are used.

    Returns:
        Time in seconds; None if no run of the model is finished.
    """
    wanted = spec.model_dump(mode="json", include=set(_MODEL))
    model = [run for run in runs if run.summary and all(run.document["spec"].get(x) == wanted[x] for x in _MODEL)]
    similar = [run for run in model if run.document["spec"].get("method") == spec.method] or model
    spent = sum(run.summary["tokens_in"] + run.summary["tokens_out"] for run in similar if run.summary)
    return sum(run.summary["seconds"] for run in similar if run.summary) * tokens / spent if spent else None
