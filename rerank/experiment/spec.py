"""Specification of a run: immutable values, given as flags or in a TOML file, and recorded in the run folder as JSON.

`RunSpec` contains the settings that determine the result, and `Execution` contains those that do not. The docstrings of
their fields are the help texts of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank.errors import DataError, UnknownNameError, UsageError, error_repr, expected_value_of_fault
from rerank.experiment.file_settings import settings_from_file
from rerank.io.settings_files import read_json_object, read_toml_file
from rerank.store.logged_prompts import PromptStorage
from rerank.tasks import ServerAddress

Shuffle = Literal["none", "random", "inverse"]

#: Key added to specifications after commit 2d4cd24 -> the value with which a run behaves as it did without the key,
#: whatever the default is today. A spec.json contains such a key only if it has another value.
LATER_KEYS: Mapping[str, Any] = {"adapter_dtype": "auto"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def make(cls, values: dict[str, Any]) -> Self:
        """Create the specification from the values of flags or of a file."""
        for key in values:
            if key not in cls.model_fields:
                raise UnknownNameError("key of a run specification", key, cls.model_fields)
        try:
            return cls(**values)
        except ValidationError as error:
            problem = error.errors()[0]
            if problem["type"] == "missing":  # all other fields have defaults
                raise UsageError(
                    "No collection is given",
                    expected="a provider, with its file or folder if it reads one, such as pydoc or beir:FOLDER",
                    remedy="Pass --collection; `rerank collections` lists the providers",
                ) from error
            flag = "--" + ".".join(map(str, problem["loc"])).replace("_", "-")
            raise UsageError(
                f"{flag} is {error_repr(problem['input'])}", expected=expected_value_of_fault(problem)
            ) from error


class RunSpec(_Frozen):
    """Settings that determine the result of a run and how it is scored. Instances are hashable."""

    collection: str
    """Selector of the collection, such as ``pydoc`` or ``beir:data/scifact``."""
    first_stage: str = "bm25"
    """First stage: ``bm25``, ``dense``, ``sparse:MODEL``, ``lucene``, ``late-interaction:MODEL``, ``hybrid:A+B``,
    ``run:FILE``, ``candidates``, or a store: ``pgvector``, ``qdrant``, ``opensearch``, ``elasticsearch``."""
    depth: int = Field(default=100, ge=1)
    """Number of candidates per query."""
    max_queries: int | None = Field(default=None, ge=1)
    """Use only the first N queries."""
    queries: tuple[str, ...] = ()
    """Use only the query with this id; repeatable."""
    shuffle: Shuffle = "none"
    """Order in which the reranker receives the candidates."""
    seed: int = 0
    """Seed of the shuffle and of sampling."""
    method: str = "auto"
    """Method or ``strategy:judge``, with options as in ``sliding,size=10``; ``auto`` selects the model's default."""
    window_size: int | None = None
    """Number of documents per window, for strategies with windows."""
    stride: int | None = None
    """Number of documents by which the window moves, for strategies with a stride."""
    passes: int | None = None
    """Number of passes, for strategies that support several."""
    top_k: int | None = Field(default=None, ge=1)
    """Rerank only the top K; the remaining documents keep their input order."""
    passages: str | None = None
    """Judge passages and combine their scores by ``max``, ``first`` or ``sum``, as in ``max,size=150,stride=75``."""
    model: str = "smollm2-135m"
    """A name listed by `rerank models`, a folder, a hub id, ``openai:NAME``, ``api:API/NAME``, or ``fake:KIND``."""
    revision: str | None = None
    """Branch, tag or commit of the model on the hub."""
    adapter: str | None = None
    """Name, folder or hub id of a PEFT adapter; one trained by listrank also sets model, method and prompt."""
    adapter_dtype: Literal["auto", "float32"] = "auto"
    """Data type of the adapter. ``auto`` uses that of the model; ``float32`` is slower with a model in bfloat16."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights. ``auto`` selects bfloat16 on hardware that supports it efficiently."""
    trust_remote_code: bool = Field(default=False, strict=True)
    """Allow Python code that comes with the model to run."""
    base_url: ServerAddress = None
    """Address of the server of an ``openai:``, ``api:`` or ``decisions:`` model; repeatable for several servers."""
    prompt: str = "auto"
    """Name of a shipped prompt or path of a YAML file. ``auto`` selects the prompt for the method and the model."""
    min_passage_tokens: int = Field(default=32, ge=1)
    """Minimum number of tokens kept of each passage."""
    max_passage_tokens: int | None = Field(default=None, ge=1)
    """Truncate passages to at most this many tokens."""
    context_size: int | None = Field(default=None, ge=1)
    """Use at most this many tokens of the model's context."""
    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature; 0 is greedy decoding."""
    thinking_tokens: int = Field(default=0, ge=0)
    """Maximum number of thinking tokens that a reasoning model generates before its answer; 0 disables thinking."""
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

        Raises:
            UnknownNameError: A key does not exist.
            UsageError: A value is invalid.
        """
        recorded = settings_from_file({**LATER_KEYS, **values}, "spec.json", trust_remote_code=True)
        return cls.make({**recorded, "trust_remote_code": False})

    @property
    def shown_method(self) -> str:
        """The method for display: paths in its options are shortened to file names."""
        return re.sub(r"=[^,]*/", "=", self.method)


class Execution(_Frozen):
    """Settings of where and how a run is executed, which are not part of the run's identity."""

    out: Path | None = None
    """Folder of the run; if omitted, a folder under ``runs/`` named by the run's hash."""
    resume: bool = False
    """Continue an unfinished run; with --out, omitted options are taken from the spec.json in that folder."""
    overwrite: bool = False
    """Delete an existing run in the folder, including its calls."""
    device: str = "auto"
    """Torch device, such as cpu or cuda:1. ``auto`` selects the first accelerator."""
    device_map: Literal["", "auto", "balanced", "sequential", "tp"] = ""
    """Distribute the model over devices by layers (auto, balanced, sequential) or by matrices (tp, with torchrun)."""
    tensor_parallel_size: int | None = Field(default=None, ge=1)
    """With vllm: number of GPUs over which every weight matrix is split."""
    pipeline_parallel_size: int | None = Field(default=None, ge=1)
    """With vllm: number of groups of GPUs over which the layers are distributed."""
    concurrency: int | None = Field(default=None, ge=1)
    """Number of simultaneous requests to each server."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds to wait for a server's reply."""
    calibration: str | None = None
    """File written by `rerank calibrate`, to add probabilities of relevance; if omitted, the adapter's file, if any."""
    retries: int | None = Field(default=None, ge=0)
    """Number of retries per request to a server; if omitted, 4 (1 if the server is slow or was never reached)."""
    provider_batch: bool = False
    """Use the provider's batch interface: cheaper, answered within 24 hours; for methods with one round of calls."""
    batch_size: int | None = Field(default=None, ge=1)
    """Number of prompts per batch; if omitted, the backend decides."""
    reuse: bool = True
    """Local models: compute a prompt prefix only once if several requests share it."""
    deterministic: bool = False
    """Local models: process requests one by one without reuse, so that each reply depends only on its request."""
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
    """Number of GPUs per worker of the engine ``ray``; a fraction lets workers share a GPU."""
    worker_timeout: float | None = Field(default=None, gt=0)
    """Restart a worker of the engine ``ray`` that has returned no reply for this many seconds."""

    def engine_options(self) -> dict[str, Any]:
        """Return the options of the engine that have their own flags; the value of an omitted option is None."""
        return self.model_dump(include={"workers", "gpus_per_worker", "worker_timeout"})


def read_run_spec(path: str | Path, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Complete a run specification from TOML or from the spec.json of a run folder.

    Dashes in keys are replaced by underscores. Nulls in a spec.json are returned as well, because a default may have
    changed since the run.

    Args:
        path: Path of the file.
        given: Values set by the user, which override those of the file.
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
