"""An adapter merged into its model by PEFT, in float32. Imports torch at its top."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from rerank.errors import UsageError
from rerank.finetune.inspection.subject import Subject
from rerank.lm.loading import load, quiet, untie
from rerank.tasks import BackendOptions


def merged(subject: Subject) -> tuple[Any, Any]:
    """Load the untrained model in float32 on the CPU, and merge the adapter into it.

    Args:
        subject: An adapter.

    Returns:
        The merged model of transformers, and its tokenizer.

    Raises:
        UsageError: The adapter is of a kind that cannot be merged, or does not fit the model.
        RerankError: What loading a model raises.
    """
    config = subject.config
    if config.is_prompt_learning:
        raise UsageError(
            f"Adapter {str(subject.folder)!r} is a learned prompt ({subject.kind}) and changes no weights",
            expected="one that changes weights, such as LoRA",
        )
    model, tokenizer, _ = load(subject.base, BackendOptions(dtype="float32", device="cpu"))
    wrapped: Any = attach(model, subject.folder)
    try:
        with quiet(), _known():
            untie(wrapped)
            whole: Any = wrapped.merge_and_unload(safe_merge=True)
            return whole.eval(), tokenizer
    except (ValueError, RuntimeError, AttributeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        raise UsageError(
            f"Adapter {str(subject.folder)!r} ({subject.kind}) cannot be merged: {error}",
            expected="one that PEFT can merge",
        ) from error


def attach(model: Any, folder: Path) -> Any:
    """Put an adapter on a model, as PEFT does.

    Raises:
        UsageError: It does not fit.
    """
    import peft

    try:
        with quiet(), _known():
            return peft.PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise UsageError(
            f"Adapter {str(folder)!r} does not fit the model: {error}", expected="the model that it was trained on"
        ) from error


class _known(warnings.catch_warnings):
    """What PEFT warns of here is looked after here: tied weights, keys that are missing, base models it cannot name."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        for message in ("Model (?:with|has) `tie_word", "Found missing adapter keys", "Input and output embeddings"):
            warnings.filterwarnings("ignore", message=message)
        return entered
