"""Models of a suite: backends without weights for cost estimates, and a cache of one model for execution.

transformers is imported when a planning backend is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from rerank.errors import BackendError
from rerank.experiment.prepare import ranker_settings
from rerank.experiment.spec import RunSpec
from rerank.io.model_base import ModelBase, hash_file_contents_of_model
from rerank.lm.loading import LANGUAGE, locate_files, named_loading_errors, quiet_transformers, require_torch
from rerank.models import backend_class_of_model, resolve_model_name, split_model_selector, with_hub_id_of_preset
from rerank.models.adapters import adapter_folder
from rerank.prompts.base import TokenCounter
from rerank.tasks import (
    Backend,
    BackendOptions,
    CrossEncoderTask,
    Reply,
    Request,
    resolve_task_context_size,
    task_backend_sees_pictures,
    tasks_supported_by_backend,
)
from rerank.tasks.backends import BaseBackend

#: Number of special tokens in a query-document pair, as in most cross-encoders.
_MARKS = 3


@dataclass(frozen=True, kw_only=True)
class PlanningBackend(BaseBackend):
    """A backend that counts tokens and identifies the model, but cannot generate."""

    #: Model, weights or revision, and adapter. The data type is not included, because it depends on the machine.
    identity: Mapping[str, str]
    tokens: TokenCounter
    tasks: frozenset[type[Any]]
    sees_pictures: bool = False  #: Whether prompts may show pictures.
    base: ModelBase | None = None  #: The published model; None if it is not known.
    batch_size: int = 1
    costs_money: bool = False

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        raise BackendError(f"{len(requests)} requests were sent to a backend without weights")


def model_has_weights(spec: RunSpec, kind: str) -> bool:
    """Return whether a run's model is loaded from weights; ``kind`` is the backend of its method (default: "")."""
    return hasattr(backend_class_of_model(spec.model, kind), "load")


def model_key(spec: RunSpec, kind: str) -> tuple[Any, ...]:
    """Return the cache key of a loaded model. Runs with equal keys can share the model."""
    loading = (spec.revision, spec.adapter, spec.dtype, spec.trust_remote_code, spec.context_size)
    return (spec.model, kind, *loading)


def open_without_weights(spec: RunSpec, kind: str) -> PlanningBackend:
    """Read a model's configuration and tokenizer, and hash its files; ``spec`` includes the settings of its adapter."""
    options = ranker_settings(spec)
    name = resolve_model_name(split_model_selector(spec.model)[1])
    _, transformers = require_torch()
    files = with_hub_id_of_preset(locate_files(name, options, weights=False))
    code = {"trust_remote_code": options.trust_remote_code}
    backend = backend_class_of_model(spec.model, kind)
    # the transformers class that tokenizes inputs, which is a processor for models with images
    reader_class = getattr(transformers, str(getattr(backend, "classes", LANGUAGE)[1]))
    with quiet_transformers(), named_loading_errors(files):
        config = transformers.AutoConfig.from_pretrained(files.folder, **code)
        reader = reader_class.from_pretrained(files.folder, **code)
    identity = files.identity
    if hasattr(reader, "image_processor"):  # the backend for images uses the same key in its identity
        identity["processor"] = type(reader.image_processor).__name__
    if spec.adapter:
        identity["adapter"] = hash_file_contents_of_model(adapter_folder(spec.adapter))
    tasks = tasks_supported_by_backend(backend)
    tokens = _token_counter(config, reader, options, pairs=CrossEncoderTask in tasks, name=identity["model"])
    return PlanningBackend(
        identity=identity,
        tokens=tokens,
        tasks=tasks,
        sees_pictures=task_backend_sees_pictures(backend),
        base=files.base,
    )


def _token_counter(config: Any, reader: Any, options: BackendOptions, *, pairs: bool, name: str) -> TokenCounter:
    from rerank.backends.cross_encoder import PairTokens
    from rerank.lm.tokenizers import HfTokens, stated_context_size

    sees = hasattr(reader, "image_processor")
    tokenizer = reader.tokenizer if sees else reader
    size = resolve_task_context_size(stated_context_size(SimpleNamespace(config=config), tokenizer), options, name)
    if sees:
        from rerank.backends.vlm import VlmTokens
        from rerank.io.pictures import require_pillow

        require_pillow()
        return VlmTokens(reader, context_size=size)
    if pairs:
        return PairTokens(tokenizer, context_size=size, special_tokens=_MARKS)
    return HfTokens(tokenizer, context_size=size)


class ModelCache:
    """A cache for one loaded model. Two models seldom fit in memory, and runs of one model are executed in sequence."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._backend: Backend | None = None

    def take(self, spec: RunSpec, kind: str) -> Backend | None:
        """Return the cached model if this run uses the same model; otherwise drop it and return None."""
        if self._key != model_key(spec, kind):
            self.drop()
        return self._backend

    def put(self, spec: RunSpec, kind: str, backend: Backend) -> None:
        """Cache a backend that loads weights. Others are not cached, because they may depend on the qrels of a run."""
        if model_has_weights(spec, kind):
            self._key, self._backend = model_key(spec, kind), backend

    def drop(self) -> None:
        self._key = self._backend = None
