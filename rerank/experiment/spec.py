"""Specification of a run: immutable values, given as flags or in a TOML file, and recorded in the run folder as JSON.

`RunSpec` contains the settings that determine the result, and `Execution` contains those that do not. The docstrings of
their fields are the help texts of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from rerank.errors import DataError, UsageError, error_repr, expected_value_of_fault
from rerank.io.settings_files import read_json_object, read_toml_file
from rerank.settings import (
    CalibrationSettings,
    CheckedSettings,
    DeviceSettings,
    MethodSettings,
    PromptLimits,
    Settings,
    WeightsSettings,
    settings_from_file,
)
from rerank.store.call_log import PromptStorage

Shuffle = Literal["none", "random", "inverse"]

#: Key added to specifications after commit 2d4cd24 -> the value with which a run behaves as it did without the key,
#: whatever the default is today. A spec.json contains such a key only if it has another value.
LATER_KEYS: Mapping[str, Any] = {"adapter_dtype": "auto", "attention": "auto", "merge_adapter": False}


class _Specification(CheckedSettings):
    _noun: ClassVar[str] = "key of a run specification"

    @classmethod
    def make(cls, values: dict[str, Any]) -> Self:
        return cls(**values)

    @classmethod
    def _describe_fault(cls, fault: Mapping[str, Any]) -> UsageError:
        if fault["type"] == "missing":  # all other fields have defaults
            return UsageError(
                "No collection is given",
                expected="a provider, with its file or folder if it reads one, such as pydoc or beir:FOLDER",
                remedy="Pass --collection; `rerank collections` lists the providers",
            )
        flag = "--" + ".".join(map(str, fault["loc"])).replace("_", "-")
        return UsageError(f"{flag} is {error_repr(fault['input'])}", expected=expected_value_of_fault(fault))


class CandidateSettings(Settings):
    """The candidates of a run and their order."""

    collection: str
    """Selector of the collection, such as ``pydoc`` or ``beir:data/scifact``."""
    first_stage: str = "bm25"
    """First stage: ``bm25``, ``dense``, ``sparse:MODEL``, ``lucene``, ``late-interaction:MODEL``, ``hybrid:A+B``,
    ``run:FILE``, ``candidates``, or a store: ``pgvector``, ``qdrant``, ``opensearch``, ``elasticsearch``."""
    depth: int = Field(default=100, ge=1)
    """Number of candidates per query."""
    max_queries: int | None = Field(default=None, ge=1, le=10**12)
    """Use only the first N queries."""
    queries: tuple[str, ...] = ()
    """Use only the query with this id; repeatable."""
    shuffle: Shuffle = "none"
    """Order in which the reranker receives the candidates."""


class RunSpec(_Specification, PromptLimits, WeightsSettings, MethodSettings, CandidateSettings):
    """Settings that determine the result of a run and how it is scored. Instances are hashable."""

    qrels: str | None = None
    """Relevance judgments to use instead of the collection's: a file, or the selector of a collection."""
    measures: tuple[str, ...] = ("nDCG@10",)
    """Measure, named as in ir_measures or trec_eval; repeatable."""
    relevant: int | None = Field(default=None, ge=1)
    """Lowest grade that binary measures count as relevant; if omitted, the grade set by the collection."""
    max_failure_rate: float = Field(default=0.2, ge=0.0, le=1.0)
    """Exit with code 7 if more than this fraction of windows failed."""

    def recorded(self) -> dict[str, Any]:
        """Return the specification for spec.json, without keys of `LATER_KEYS` that have no effect in this run."""
        unchanged = {name for name, value in LATER_KEYS.items() if getattr(self, name) == value}
        return self.model_dump(mode="json", exclude=unchanged)

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Self:
        """Create the specification of a recorded run from its spec.json; later changes of defaults do not affect it.

        The specification does not permit sending keys to the recorded server or running remote code, so it is only for
        inspecting the run.
        """
        recorded = settings_from_file({**LATER_KEYS, **values}, "spec.json", trust_remote_code=True)
        return cls.make({**recorded, "trust_remote_code": False})

    @property
    def shown_method(self) -> str:
        """The method for display: paths in its options are shortened to file names."""
        return re.sub(r"=[^,]*/", "=", self.method)


class Execution(_Specification, CalibrationSettings, DeviceSettings):
    """Settings of where and how a run is executed, which are not part of the run's identity."""

    out: Path | None = None
    """Folder of the run; if omitted, a folder under ``runs/`` named by the run's hash."""
    resume: bool = False
    """Continue an unfinished run; with --out, omitted options are taken from the spec.json in that folder."""
    overwrite: bool = False
    """Delete an existing run in the folder, including its calls."""
    provider_batch: bool = False
    """Use the provider's batch interface: cheaper, answered within 24 hours; for methods with one round of calls."""
    max_total_tokens: int | None = Field(default=None, ge=1)
    """Stop calling the model once prompt and completion tokens reach this total."""
    log_prompts: PromptStorage = "once"
    """Keep prompts in the call log: once (compressed), full (as text) or none (rendered again when they are needed)."""
    call_cache: bool | None = None
    """Share replies with other runs through the user's cache; if omitted, only if calls cost money."""
    engine: str = "local"
    """Where to rank: ``local`` for this process, ``ray`` for workers on this machine, ``ray:ADDRESS`` for a cluster."""
    workers: int | None = Field(default=None, ge=1)
    """Number of workers of the engine ``ray``; each opens the model once."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """Number of GPUs per worker of the engine ``ray``, or a fraction; if omitted, what the model needs."""
    worker_timeout: float | None = Field(default=None, gt=0, le=1e6)
    """Restart a worker of the engine ``ray`` that has returned no reply for this many seconds."""

    def engine_options(self) -> dict[str, Any]:
        """Return the options of the engine that have their own flags; the value of an omitted option is None."""
        return self.model_dump(include={"workers", "gpus_per_worker", "worker_timeout"})


def read_run_spec(path: str | Path, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Complete the values that the user has given with those of a TOML file or of the spec.json of a run folder.

    Dashes in keys are replaced by underscores. Nulls in a spec.json are returned, too, as a default may have changed.
    """
    if str(path).endswith(".json"):
        recorded = read_json_object(path, "run specification", expected="TOML, or the spec.json of a run folder")
        if not isinstance(recorded.get("spec"), dict):
            raise DataError(f"{str(path)!r} has no object 'spec'", expected="TOML, or the spec.json of a run folder")
        values = {**LATER_KEYS, **recorded["spec"]}
    else:
        values = read_toml_file(path, "run specification")
    named = {key.replace("-", "_"): value for key, value in values.items()}
    return complete_spec_from_file(given or {}, named, path)


def complete_spec_from_file(given: Mapping[str, Any], values: Mapping[str, Any], file: str | Path) -> dict[str, Any]:
    """Return the given values, completed with the values of a file. The file cannot permit remote code."""
    missing = {key: value for key, value in values.items() if key not in given}
    trusts = given.get("trust_remote_code") is True
    return {**settings_from_file(missing, file, trust_remote_code=trusts), **given}
