"""Settings of rankers, which are named like the command's flags, completed with defaults, and validated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

import pydantic
from pydantic import Field, ValidationError

from rerank.errors import UnknownNameError, UsageError, error_repr, expected_value_of_fault
from rerank.judges import Limits
from rerank.models import default_method_of_model, model_settings_folder, recipe_of_model
from rerank.models.adapters import adapter_folder, adapter_folder_defaults
from rerank.tasks import Backend, BackendOptions, ServerAddress
from rerank.tasks.backends import traits


class RankerOptions(TypedDict, total=False):
    """Settings of a ranker except its model, named like the command's flags.

    A missing key or None means the default. `RankerConfig` documents the settings and their defaults.
    """

    adapter: str | None
    adapter_dtype: str | None
    revision: str | None
    method: str | None
    window_size: int | None
    stride: int | None
    passes: int | None
    top_k: int | None
    passages: str | None
    prompt: str | None
    min_passage_tokens: int | None
    max_passage_tokens: int | None
    context_size: int | None
    temperature: float | None
    seed: int | None
    thinking_tokens: int | None
    dtype: str | None
    device: str | None
    device_map: str | None
    tensor_parallel_size: int | None
    pipeline_parallel_size: int | None
    batch_size: int | None
    reuse: bool | None
    deterministic: bool | None
    trust_remote_code: bool | None
    base_url: str | tuple[str, ...] | None
    concurrency: int | None
    timeout: float | None
    calibration: str | None
    retries: int | None


_Positive = Annotated[int, Field(ge=1)]
#: Method that replaces ``auto`` if neither the adapter, the model nor the backend has a method of its own.
DEFAULT_METHOD = "fullrank"


@pydantic.dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RankerConfig:
    """Complete settings of a ranker. Names, defaults and allowed values are those of the command's flags.

    `from_settings` reports an invalid value as a UsageError, the constructor as a ValidationError of pydantic.

    Attributes:
        model: A name listed by `rerank models`, a folder, a hub id, ``openai:NAME``, ``api:API/NAME``,
            ``decisions:NAME``, ``vllm:NAME`` or ``fake:KIND``.
        adapter: A name listed by `rerank models`, or the folder or hub id of a PEFT adapter; None for no adapter.
        adapter_dtype: Data type of the adapter: ``auto`` for the model's data type, or ``float32``.
        revision: Branch, tag or commit of the model on the hub; None for the default branch.
        method: Name of a method, or ``strategy:judge``, with options such as ``sliding,size=10,stride=5``. ``auto`` is
            replaced by the method of the adapter or the trained model, by the recipe of the model preset, by the
            default of the backend, or else by `DEFAULT_METHOD`.
        window_size: Number of documents per window, for strategies with windows.
        stride: Number of documents by which the window moves; half of ``window_size`` if only ``window_size`` is set.
        passes: Number of passes, for strategies that support several.
        top_k: Rerank only the top K; the remaining documents keep their input order.
        passages: Division of documents into passages, as in ``max,size=150,stride=75``; None judges whole documents.
        prompt: Name of a shipped prompt or path of a YAML file; ``auto`` selects the prompt by method and model.
        min_passage_tokens: Minimum number of tokens to keep from each passage, if prompts are too long.
        max_passage_tokens: Maximum number of tokens to keep from each passage; None for no limit.
        context_size: Number of tokens of the model's context to use; None for all.
        temperature: Sampling temperature; 0 is greedy.
        seed: Seed for sampling and for stochastic strategies.
        thinking_tokens: Maximum number of tokens that a reasoning model may generate before its answer.
        dtype: Data type of the weights.
        device: Torch device; ``auto`` selects the first accelerator, or the CPU if there is none.
        device_map: Distribution of a model over several devices; empty for one device.
        tensor_parallel_size: With vLLM: number of GPUs over which to split every weight matrix.
        pipeline_parallel_size: With vLLM: number of groups of GPUs over which to distribute the layers.
        batch_size: Number of requests per batch; None for the backend's default.
        reuse: Whether local models compute a prompt prefix only once if several requests share it.
        deterministic: Whether local models process requests one by one without reuse, so that each reply depends only
            on its request.
        trust_remote_code: Whether to run Python code from the model's repository.
        base_url: Address of the server, for models ``openai:``, ``api:`` and ``decisions:``; a tuple or list for
            several servers that serve the same model.
        concurrency: Number of concurrent requests to each server; None for the backend's default.
        timeout: Seconds to wait for a server's reply; None for the backend's default.
        calibration: File written by `rerank calibrate`, which converts scores to probabilities of relevance; None for
            the file in the folder of the adapter or the trained model, if there is one.
        retries: Maximum number of retries per request to a server; None for the backend's default.
    """

    model: str = "smollm2-135m"
    adapter: str | None = None
    adapter_dtype: Literal["auto", "float32"] = "auto"
    revision: str | None = None
    method: str = "auto"
    window_size: int | None = None
    stride: int | None = None
    passes: int | None = None
    top_k: _Positive | None = None
    passages: str | None = None
    prompt: str = "auto"
    min_passage_tokens: _Positive = 32
    max_passage_tokens: _Positive | None = None
    context_size: _Positive | None = None
    temperature: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    seed: int = 0
    thinking_tokens: Annotated[int, Field(ge=0)] = 0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    device_map: Literal["", "auto", "balanced", "sequential", "tp"] = ""
    tensor_parallel_size: _Positive | None = None
    pipeline_parallel_size: _Positive | None = None
    batch_size: _Positive | None = None
    reuse: bool = True
    deterministic: bool = False
    trust_remote_code: Annotated[bool, Field(strict=True)] = False
    base_url: ServerAddress = None
    concurrency: _Positive | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    calibration: str | None = None
    retries: Annotated[int, Field(ge=0)] | None = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], *, backend: Backend | None = None) -> RankerConfig:
        """Complete settings with those of the adapter or the trained model, and then with the defaults.

        Args:
            settings: The given settings; None counts as missing.
            backend: The backend of the model, if it is already open.
        """
        names = [f.name for f in fields(cls)]
        for name in settings:
            if name not in names:
                raise UnknownNameError("setting of a ranker", name, names)
        given = {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in settings.items()
            if value is not None
        }
        config = cls._make(given)
        values = {name: getattr(config, name) for name in given}
        if not config.adapter:
            values["model"] = config.model
        return cls._make(values | assembly_defaults(values, backend))

    @classmethod
    def _make(cls, values: Mapping[str, Any]) -> Self:
        try:
            return cls(**values)
        except ValidationError as error:
            problem = error.errors()[0]
            found = f"{problem['loc'][0]} = {error_repr(problem['input'])}"
            raise UsageError(found, expected=expected_value_of_fault(problem)) from error

    def backend_options(self) -> BackendOptions:
        """Return the options for loading and running the model."""
        given = {option.name: getattr(self, option.name) for option in fields(BackendOptions)}
        return BackendOptions(**{name: value for name, value in given.items() if value is not None})

    def limits(self) -> Limits:
        """Return the token budget and the decoding options of the judge; greedy decoding has no seed."""
        return Limits(
            min_passage_tokens=self.min_passage_tokens,
            max_passage_tokens=self.max_passage_tokens,
            context_size=self.context_size,
            temperature=self.temperature,
            seed=self.seed if self.temperature > 0 else 0,
            thinking_tokens=self.thinking_tokens,
        )


def assembly_defaults(settings: Mapping[str, Any], backend: Backend | None = None) -> dict[str, Any]:
    """Return the method, its settings and the base model of an adapter, for keys that are missing in ``settings``.

    The defaults are taken from the first of these sources that exists: the settings in the folder of the adapter or of
    the trained or merged model, the recipe of the preset of the model or reranker, the default method of the backend,
    and `DEFAULT_METHOD`. If the method is given, prompt and limits of another method are not returned.

    Args:
        settings: The given settings; the method ``auto`` counts as missing.
        backend: The backend of the model, if it is already open. It stores the folder from which the model was loaded,
            whereas the model's name may not be a path, or may be the path of another folder.
    """
    given = {key: value for key, value in settings.items() if (key, value) != ("method", "auto")}
    folder = folder_of_ranker_settings(given, backend)
    values = adapter_folder_defaults(folder, given) if folder else {}
    if "method" in given or "method" in values:
        return values
    own = traits(backend).default_method if backend else default_method_of_model(given.get("model", ""))
    recipe = recipe_of_model(given.get("adapter") or given.get("model") or "", folder, given.get("revision") or "")
    recipe = {"method": own or DEFAULT_METHOD, **recipe}
    return {key: value for key, value in recipe.items() if key not in given} | values


def folder_of_ranker_settings(settings: Mapping[str, Any], backend: Backend | None = None) -> Path | None:
    """Return the folder of the adapter or, without an adapter, of the model; None if there is no folder.

    If the adapter or the model was trained with this package, the folder contains ranking settings.

    Args:
        settings: Settings of a ranker, of which only ``adapter`` and ``model`` are used.
        backend: As in `assembly_defaults`.
    """
    if settings.get("adapter"):
        return adapter_folder(settings["adapter"])
    if backend is not None:
        return traits(backend).settings_folder
    return model_settings_folder(settings["model"]) if settings.get("model") else None
