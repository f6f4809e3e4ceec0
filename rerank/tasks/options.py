"""Options for loading and running models, which all backends share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ValidatorFunctionWrapHandler, WrapValidator

from rerank.errors import UsageError

DTYPES = ("auto", "float32", "bfloat16", "float16")
ADAPTER_DTYPES = ("auto", "float32")
DEVICE_MAPS = ("", "auto", "balanced", "sequential", "tp")


class FileAddress(str):
    """A server address that was read from a file. The file may not be the user's own, so no key is sent there.

    Attributes:
        file: Path of the file.
    """

    file: str

    def __new__(cls, text: str, file: str = "") -> Self:
        """Mark an address as read from a file."""
        address = super().__new__(cls, text)
        address.file = file
        return address


def _validate_server_address(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate an address or a list of addresses; a list of one address becomes that address.

    A `FileAddress` is returned unchanged, because pydantic would convert it to an ordinary string.
    """
    if isinstance(value, list | tuple):
        several = tuple(_validate_server_address(address, validate) for address in value)
        return several[0] if len(several) == 1 else several or None
    return value if isinstance(value, FileAddress) else validate(value)


#: Type of the address of a server, or of the addresses of several servers, in pydantic classes.
ServerAddress = Annotated[str | tuple[str, ...] | None, WrapValidator(_validate_server_address)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """Options for loading and running a model.

    Attributes:
        revision: Branch, tag or commit on the hub; empty for the default branch. Ignored for a local folder.
        adapter: Folder or hub id of a PEFT adapter; empty for none.
        adapter_dtype: Data type of the adapter: ``auto`` for the data type of the model, or ``float32``.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 on hardware that supports it efficiently.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: the first accelerator, or the CPU if there is none.
        batch_size: Number of requests decoded together; None for the backend's default.
        reuse: Whether a local model computes prompt prefixes that several requests share (instruction, query, passages)
            only once and keeps their KV cache.
        deterministic: Whether a local model processes requests one by one without reuse. A reply is then bit-identical
            whenever its request is the same.
        context_size: Maximum number of tokens of prompt and reply together; None for the whole context.
        trust_remote_code: Whether to run the Python code that comes with a model.
        device_map: How to place a model on several devices: ``auto``, ``balanced`` or ``sequential`` distribute its
            layers; ``tp`` splits every weight matrix over the processes of torchrun; empty for one device.
        tensor_parallel_size: Number of GPUs over which vLLM splits every weight matrix; None for the backend's default.
        pipeline_parallel_size: Number of groups of GPUs over which vLLM distributes the layers; None for one.
        base_url: Address of a server; empty to use the address in the environment; a tuple for several servers with the
            same model. No key is sent to a `FileAddress` unless the user allows it.
        concurrency: Number of simultaneous requests to each server; None for the backend's default.
        timeout: Seconds to wait for a reply from a server; None for the backend's default.
        retries: Maximum number of retries of a request to a server; None for the backend's default.

    Raises:
        UsageError: A number is out of range, or the dtype or device map is unknown.
    """

    revision: str = ""
    adapter: str = ""
    adapter_dtype: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int | None = None
    reuse: bool = True
    deterministic: bool = False
    context_size: int | None = None
    trust_remote_code: bool = False
    device_map: str = ""
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    base_url: str | tuple[str, ...] = ""
    concurrency: int | None = None
    timeout: float | None = None
    retries: int | None = None

    def __post_init__(self) -> None:
        """Check the values that can be checked without a model."""
        if self.dtype not in DTYPES:
            raise UsageError(f"The data type is {self.dtype!r}", expected=f"one of: {', '.join(DTYPES)}")
        if self.adapter_dtype not in ADAPTER_DTYPES:
            raise UsageError(
                f"The data type of the adapter is {self.adapter_dtype!r}",
                expected=f"one of: {', '.join(ADAPTER_DTYPES)}",
            )
        if self.device_map not in DEVICE_MAPS:
            raise UsageError(f"The device map is {self.device_map!r}", expected=f"one of: {', '.join(DEVICE_MAPS[1:])}")
        sizes = {
            "Batch size": self.batch_size,
            "Context size": self.context_size,
            "Concurrency": self.concurrency,
            "Tensor parallel size": self.tensor_parallel_size,
            "Pipeline parallel size": self.pipeline_parallel_size,
        }
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}", expected="at least 1")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise UsageError(f"The timeout is {self.timeout}", expected="a finite number of seconds above 0")
        if self.retries is not None and self.retries < 0:
            raise UsageError(f"The number of retries is {self.retries}", expected="at least 0")


def task_backend_settings_folder(name: str | Path, options: BackendOptions) -> Path | None:
    """Return the folder whose settings apply to a loaded model: the adapter's folder or, without one, the model's.

    Args:
        name: A folder, or an id on the hub.
        options: The options with which the model was loaded.

    Returns:
        An absolute path; None for an id on the hub.
    """
    folder = Path(options.adapter or name)
    return folder.absolute() if folder.is_dir() else None


def resolve_task_context_size(stated: int | None, options: BackendOptions, model: str) -> int:
    """Return the context size of a model: the size that the model states or, if None, the size in the options.

    A smaller size in the options does not change the result; it limits prompts elsewhere (`PromptBudget`).

    Raises:
        UsageError: The size in the options exceeds the stated size, or neither is known.
    """
    if stated and options.context_size and options.context_size > stated:
        raise UsageError(
            f"--context-size is {options.context_size}",
            expected=f"at most {stated}, the context size of the model",
            remedy="Omit --context-size to use the whole context",
        )
    size = stated or options.context_size
    if size is None:
        raise UsageError(
            f"Model {model!r} does not state its context size",
            expected="max_position_embeddings in its config",
            remedy="Set --context-size TOKENS",
        )
    return size
