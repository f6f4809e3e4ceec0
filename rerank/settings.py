"""Every setting of a ranker, once: its name, its range, its default and its help, which is the docstring of the field.

Python keywords, run specifications, command-line options and recipes are built from these classes. Settings that are
read from a file pass through `settings_from_file`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypedDict

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from rerank.errors import UnknownNameError, UsageError, error_repr, expected_value_of_fault


class FileAddress(str):
    """A server address that was read from a file. The file may not be the user's own, so no key is sent there."""

    file: str  #: Path of the file.

    def __new__(cls, text: str, file: str = "") -> Self:
        """Mark an address as read from a file."""
        address = super().__new__(cls, text)
        address.file = file
        return address


def _validate_server_address(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate one or several addresses; pydantic would convert a `FileAddress` to an ordinary string."""
    if isinstance(value, list | tuple):
        several = tuple(_validate_server_address(address, validate) for address in value)
        return several[0] if len(several) == 1 else several or None
    return value if isinstance(value, FileAddress) else validate(value)


#: Type of the address of a server, or of the addresses of several servers, in pydantic classes.
ServerAddress = Annotated[str | tuple[str, ...] | None, WrapValidator(_validate_server_address)]


class Settings(BaseModel):
    """Base class of groups of settings. Instances are immutable and hashable; an invalid value is a ValidationError."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _fits_64_bits(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("a number of at most 18 digits")
        return value


class CheckedSettings(Settings):
    """Base class of settings that users create: an invalid value or an unknown name is a UsageError."""

    _noun: ClassVar[str] = "setting"  #: Noun for a field, for messages about unknown names.

    def __init__(self, **values: Any) -> None:
        for name in values:
            if name not in type(self).model_fields:
                raise UnknownNameError(self._noun, name, type(self).model_fields)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise self._describe_fault(error.errors()[0]) from error

    @classmethod
    def _describe_fault(cls, fault: Mapping[str, Any]) -> UsageError:
        found = f"{fault['loc'][0]} = {error_repr(fault['input'])}"
        return UsageError(found, expected=expected_value_of_fault(fault))


class MethodSettings(Settings):
    """The method, and the model and the prompt with which it is used."""

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
    prompt: str = "auto"
    """Name of a shipped prompt or path of a YAML file. ``auto`` selects the prompt for the method and the model."""
    model: str = "smollm2-135m"
    """A name listed by `rerank models`, a folder, a hub id, ``openai:NAME``, ``api:API/NAME``, or ``fake:KIND``."""


class WeightsSettings(Settings):
    """The weights of the model, or the server that has them; they determine the replies."""

    revision: str | None = None
    """Branch, tag or commit of the model on the hub."""
    adapter: str | None = None
    """Name, folder or hub id of a PEFT adapter; one trained by listrank also sets model, method and prompt."""
    adapter_dtype: Literal["auto", "float32"] = "auto"
    """Data type of the adapter. ``auto`` uses that of the model; ``float32`` is slower with a model in bfloat16."""
    merge_adapter: bool = False
    """Merge a LoRA into the weights of a local model; bfloat16 rounds its change (by 24 % for the shipped adapter)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights. ``auto`` selects bfloat16 where it is fast, float16 on older NVIDIA GPUs."""
    attention: Literal["auto", "sdpa", "flash_attention_2", "flash_attention_3", "eager"] = "auto"
    """Attention function of transformers for a local model; the flash functions need their own packages."""
    trust_remote_code: bool = Field(default=False, strict=True)
    """Allow Python code that comes with the model to run."""
    base_url: ServerAddress = None
    """Address of the server of an ``openai:``, ``api:`` or ``decisions:`` model; repeatable for several servers."""


DTYPES = ("auto", "float32", "bfloat16", "float16")  #: Data types of weights.


class DeviceSettings(Settings):
    """Where and how fast the model runs, which does not change what it is asked."""

    device: str = "auto"
    """Torch device, such as cpu or cuda:1. ``auto`` selects the first accelerator."""
    device_map: Literal["", "auto", "balanced", "sequential", "tp"] = ""
    """Distribute the model over devices by layers (auto, balanced, sequential) or by matrices (tp, with torchrun)."""
    tensor_parallel_size: int | None = Field(default=None, ge=1)
    """With vllm: number of GPUs over which every weight matrix is split."""
    pipeline_parallel_size: int | None = Field(default=None, ge=1)
    """With vllm: number of groups of GPUs over which the layers are distributed."""
    vllm_options: str = ""
    """With vllm: options of its engine, such as gpu_memory_utilization=0.8,max_num_seqs=64 (docs/vllm.md)."""
    concurrency: int | None = Field(default=None, ge=1)
    """Number of simultaneous requests to each server."""
    timeout: float | None = Field(default=None, gt=0, le=1e6)
    """Seconds to wait for a server's reply."""
    retries: int | None = Field(default=None, ge=0)
    """Number of retries per request to a server; if omitted, 4 (1 if the server is slow or was never reached)."""
    batch_size: int | None = Field(default=None, ge=1)
    """Number of prompts per batch; if omitted, the backend decides."""
    reuse: bool = True
    """Local models: compute a prompt prefix only once if several requests share it."""
    deterministic: bool = False
    """Local models: process requests one by one without reuse, so that each reply depends only on its request."""


class ContextSettings(Settings):
    """The part of the model's context that is used, which concerns the model and the prompts."""

    context_size: int | None = Field(default=None, ge=1)
    """Use at most this many tokens of the model's context."""


class PassageLimits(ContextSettings):
    """How much of a passage and of a prompt the model reads; a trained model keeps the limits of its training."""

    min_passage_tokens: int = Field(default=32, ge=1)
    """Minimum number of tokens kept of each passage."""
    max_passage_tokens: int | None = Field(default=None, ge=1)
    """Truncate passages to at most this many tokens."""


class PromptLimits(PassageLimits):
    """Token budget and decoding settings of a judge."""

    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature; 0 is greedy decoding."""
    seed: int = 0
    """Seed of the shuffle and of sampling."""
    thinking_tokens: int = Field(default=0, ge=0)
    """Maximum number of thinking tokens that a reasoning model generates before its answer; 0 disables thinking."""

    @field_validator("temperature")
    @classmethod
    def _divides_logits(cls, value: float) -> float:
        if 0 < value < 1e-4:
            raise ValueError("0, or at least 0.0001, since logits are divided by it")
        return value


class CalibrationSettings(Settings):
    """The calibration that converts scores to probabilities."""

    calibration: str | None = None
    """File written by `rerank calibrate`, to add probabilities of relevance; if omitted, the adapter's file, if any."""


class ModelSettings(CheckedSettings, ContextSettings, DeviceSettings, WeightsSettings):
    """Settings for loading and running a model, which all backends share."""


class RankerSettings(ModelSettings, CalibrationSettings, PromptLimits, MethodSettings):
    """Complete settings of a ranker (model, method, prompt and limits), as from `rerank.assemble.complete_settings`."""

    _noun: ClassVar[str] = "setting of a ranker"

    def limits(self) -> PromptLimits:
        """Return the limits of the judge's prompts; the requests of greedy decoding do not depend on a seed."""
        values = {name: getattr(self, name) for name in PromptLimits.model_fields}
        return PromptLimits(**values | {"seed": self.seed if self.temperature > 0 else 0})


class RankerOptions(TypedDict, total=False):
    """The settings of `RankerSettings` except the model, as keywords; a missing key or None means the default."""

    adapter: str | None
    adapter_dtype: str | None
    merge_adapter: bool | None
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
    attention: str | None
    device: str | None
    device_map: str | None
    tensor_parallel_size: int | None
    pipeline_parallel_size: int | None
    vllm_options: str | None
    batch_size: int | None
    reuse: bool | None
    deterministic: bool | None
    trust_remote_code: bool | None
    base_url: str | tuple[str, ...] | None
    concurrency: int | None
    timeout: float | None
    calibration: str | None
    retries: int | None


#: The option of first stages that permits remote code, unless pydantic parses its value as false.
_TRUST_IN_SELECTOR = re.compile(r"trust[-_]remote[-_]code=(?!(?:false|f|no|n|off|0)(?:[,)]|$))", re.I)


def settings_from_file(values: Any, file: str | Path, *, trust_remote_code: bool = False) -> Any:
    """Return the parsed content of a file (run specification, spec.json, suite, recipe), or a part of it, if it may be.

    A file may come from somebody else. It may choose the model and the server of a run, but it cannot grant permissions
    that only the user can grant: to send an API key to its server, and to run Python code that comes with a model.
    Server addresses, at all levels of nesting, therefore become `FileAddress` objects.
    """
    if isinstance(values, Mapping):
        return {key: _setting_from_file(str(key), value, file, trust_remote_code) for key, value in values.items()}
    if isinstance(values, list):
        return [settings_from_file(value, file, trust_remote_code=trust_remote_code) for value in values]
    if isinstance(values, str) and _TRUST_IN_SELECTOR.search(values) and not trust_remote_code:
        raise _remote_code_error(values, file)
    return values


def _setting_from_file(key: str, value: Any, file: str | Path, trusts: bool) -> Any:
    name = key.replace("-", "_")
    if name == "trust_remote_code" and value not in (False, None) and not trusts:
        raise _remote_code_error(f"{key} = {value!r}", file)
    if name == "base_url" and isinstance(value, str):
        return FileAddress(value, str(file))
    if name == "base_url" and isinstance(value, list | tuple):
        return [_setting_from_file(key, address, file, trusts) for address in value]
    return settings_from_file(value, file, trust_remote_code=trusts)


def _remote_code_error(setting: str, file: str | Path) -> UsageError:
    return UsageError(
        f"{str(file)!r} contains {setting}",
        expected="no permission to run code that comes with a model, since the file may come from somebody else",
        remedy="If you trust the model, pass --trust-remote-code or this option on the command line, or "
        "trust_remote_code=True in Python",
    )
