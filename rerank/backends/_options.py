"""The options that a backend may be opened with. Knows no backend."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.errors import UsageError

DTYPES = ("auto", "float32", "bfloat16", "float16")


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

    Raises:
        UsageError: A size below 1 or an unknown dtype.
    """

    revision: str = ""
    adapter: str = ""
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int | None = None
    context_size: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        if self.dtype not in DTYPES:
            raise UsageError(f"Dtype {self.dtype!r}", expected=f"one of: {', '.join(DTYPES)}")
        for name, value in (("Batch size", self.batch_size), ("Context size", self.context_size)):
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}", expected="at least 1")
