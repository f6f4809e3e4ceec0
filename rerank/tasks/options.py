"""The options that a backend may be opened with. Knows no backend."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.errors import UsageError

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_MAPS = ("", "auto", "balanced", "sequential", "tp")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """How to load a model and how to run it.

    Attributes:
        revision: Branch, tag or commit on the hub; empty is the default branch. Without effect on a local folder.
        adapter: Folder or hub id of a PEFT adapter; empty is none.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: bfloat16 where the processor is fast with it.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: the first accelerator, else the processor.
        batch_size: Requests decoded together; None leaves it to the backend.
        context_size: Tokens of prompt and reply together; None takes it from the model.
        trust_remote_code: Run the Python code that comes with a model. Off unless asked for.
        device_map: How to place a model that one device does not hold: ``auto``, ``balanced``, ``sequential`` (its
            layers over all devices) or ``tp`` (every matrix over the processes of torchrun); empty for one device.
        base_url: Where a server is; empty takes it from the environment.
        concurrency: Requests to a server under way at a time; None leaves it to the backend.
        timeout: Seconds to wait for a server's answer; None leaves it to the backend.

    Raises:
        UsageError: A size below 1 or an unknown dtype or device map.
    """

    revision: str = ""
    adapter: str = ""
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int | None = None
    context_size: int | None = None
    trust_remote_code: bool = False
    device_map: str = ""
    base_url: str = ""
    concurrency: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        if self.dtype not in DTYPES:
            raise UsageError(f"Dtype {self.dtype!r}", expected=f"one of: {', '.join(DTYPES)}")
        if self.device_map not in DEVICE_MAPS:
            raise UsageError(f"Device map {self.device_map!r}", expected=f"one of: {', '.join(DEVICE_MAPS[1:])}")
        sizes = {"Batch size": self.batch_size, "Context size": self.context_size, "Concurrency": self.concurrency}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}", expected="at least 1")
        if self.timeout is not None and self.timeout <= 0:
            raise UsageError(f"Timeout {self.timeout}", expected="more than 0 seconds")


def context_of(stated: int | None, options: BackendOptions, model: str) -> int:
    """Tokens that a model takes: what it states, else what was given.

    Raises:
        UsageError: More was given than the model states, or neither says.
    """
    if stated and options.context_size and options.context_size > stated:
        raise UsageError(
            f"--context-size {options.context_size}",
            expected=f"at most {stated}, which is what the model was made for",
            remedy="Leave it out to use all of it",
        )
    size = stated or options.context_size
    if size is None:
        raise UsageError(
            f"Model {model!r} does not say how long its context is",
            expected="max_position_embeddings in its config",
            remedy="Say it: --context-size TOKENS",
        )
    return size
