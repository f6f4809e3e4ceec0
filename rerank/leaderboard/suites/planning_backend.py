"""Models of a suite: described without their weights for an estimate, and loaded one at a time for the runs.

Knows how a backend is opened, not what it is asked. Transformers is imported when a model of weights is described.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rerank.errors import BackendError
from rerank.experiment.prepare import ranker_config
from rerank.experiment.spec import RunSpec
from rerank.io.model_hash import model_folder_hash
from rerank.lm.loading import LANGUAGE, named_errors, origin_of, quiet, require_torch
from rerank.models import backend_class, resolve_model, split_model
from rerank.models.adapters import adapter_folder
from rerank.prompts.base import TokenCounter
from rerank.tasks import (
    Backend,
    BackendOptions,
    CrossEncoderTask,
    Reply,
    Request,
    resolve_context_size,
    supported_tasks,
)

#: Tokens of a pair beyond its two texts, as most cross-encoders mark them.
_MARKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningBackend:
    """A backend that counts tokens as the model does, says which weights it has, and answers nothing.

    Attributes:
        identity: Model, weights or revision, adapter; not the number type, which the machine has a say in.
        tokens: How the model counts.
        tasks: The tasks that the model supports.
    """

    identity: Mapping[str, str]
    tokens: TokenCounter
    tasks: frozenset[type[Any]]
    batch_size: int = 1
    costs_money: bool = False

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Refuse.

        Raises:
            BackendError: Always: there are no weights.
        """
        raise BackendError(f"{len(requests)} requests to a model that was only described")


def has_weights(spec: RunSpec, kind: str) -> bool:
    """Whether a run's model is loaded from weights, which takes time and memory; fakes and servers are not.

    Args:
        spec: The run.
        kind: Backend that its method is meant for; empty for the one of language models.
    """
    return hasattr(backend_class(spec.model, kind), "load")


def model_key(spec: RunSpec, kind: str) -> tuple[Any, ...]:
    """What two runs must have in common to share a loaded model."""
    loading = (spec.revision, spec.adapter, spec.dtype, spec.trust_remote_code, spec.context_size)
    return (spec.model, kind, *loading)


def open_planning_backend(spec: RunSpec, kind: str) -> PlanningBackend:
    """Read a model's settings and tokenizer, and hash its files, without loading it.

    Args:
        spec: The run, as its adapter completed it.
        kind: As for `has_weights`.

    Raises:
        MissingPrerequisiteError: Transformers is not installed; or Pillow, for a model that sees pictures.
        MissingResourceError: There is no such model or adapter.
        UsageError: A context size beyond the model's.
    """
    options = ranker_config(spec).backend_options()
    name = resolve_model(split_model(spec.model)[1])
    _, transformers = require_torch()
    origin = origin_of(name, options)
    with quiet(), named_errors(name):
        config = transformers.AutoConfig.from_pretrained(name, **origin)
        reader = getattr(transformers, _reader(backend_class(spec.model, kind))).from_pretrained(name, **origin)
    folder = Path(name) if Path(name).is_dir() else None
    identity = {"model": folder.name if folder else str(name)}
    if folder:
        identity["weights"] = model_folder_hash(folder)
    else:
        identity["revision"] = str(getattr(config, "_commit_hash", None) or options.revision)
    if hasattr(reader, "image_processor"):  # as the backend says which one it sees with
        identity["processor"] = type(reader.image_processor).__name__
    if spec.adapter:
        identity["adapter"] = model_folder_hash(adapter_folder(spec.adapter))
    tasks = supported_tasks(backend_class(spec.model, kind))
    tokens = _counter(config, reader, options, pairs=CrossEncoderTask in tasks, name=identity["model"])
    return PlanningBackend(identity=identity, tokens=tokens, tasks=tasks)


def _reader(made: Any) -> str:
    """Class of transformers that turns what a backend is asked into tokens: a processor where it sees pictures."""
    return str(getattr(made, "classes", LANGUAGE)[1])


def _counter(config: Any, reader: Any, options: BackendOptions, *, pairs: bool, name: str) -> TokenCounter:
    from rerank.backends.cross_encoder import PairTokens
    from rerank.lm.tokenizers import HfTokens, stated_context_size

    sees = hasattr(reader, "image_processor")
    tokenizer = reader.tokenizer if sees else reader
    size = resolve_context_size(stated_context_size(SimpleNamespace(config=config), tokenizer), options, name)
    if sees:
        from rerank.backends.vlm.tokens import VlmTokens
        from rerank.io.pictures import require_pillow

        require_pillow()
        return VlmTokens(reader, context_size=size)
    if pairs:
        return PairTokens(tokenizer, context_size=size, special_tokens=_MARKS)
    return HfTokens(tokenizer, context_size=size)


class ModelCache:
    """Holds one loaded model at a time: two seldom fit, and runs of one model stand together."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._key: tuple[Any, ...] | None = None
        self._backend: Backend | None = None

    def take(self, spec: RunSpec, kind: str) -> Backend | None:
        """The model of a run if it is the one held; otherwise None, and nothing is held any more."""
        if self._key != model_key(spec, kind):
            self.drop()
        return self._backend

    def put(self, spec: RunSpec, kind: str, backend: Backend) -> None:
        """Hold what was loaded. What loads nothing is not held: it may have been opened for one run's judgments."""
        if has_weights(spec, kind):
            self._key, self._backend = model_key(spec, kind), backend

    def drop(self) -> None:
        """Hold nothing, so that the memory is free before another model is loaded."""
        self._key = self._backend = None
