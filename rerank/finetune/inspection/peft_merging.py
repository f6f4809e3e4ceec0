"""Merge an adapter into its base model with PEFT, in float32. This module imports torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from rerank.errors import UsageError
from rerank.finetune.inspection.inspected_model import InspectedModel
from rerank.lm.adapter_weights import untie_causal_model_head
from rerank.lm.loading import load_language_model, quiet_transformers
from rerank.tasks import BackendOptions


def merge_with_peft(subject: InspectedModel) -> tuple[Any, Any]:
    """Load the base model in float32 on the CPU, and merge the adapter into it.

    Args:
        subject: An adapter.

    Returns:
        The merged model (of transformers) and the tokenizer.
    """
    config = subject.config
    if config.is_prompt_learning:
        raise UsageError(
            f"Adapter {str(subject.folder)!r} is a learned prompt ({subject.kind}), which changes no weights",
            expected="an adapter that changes weights, such as LoRA",
        )
    loaded = load_language_model(subject.base, BackendOptions(dtype="float32", device="cpu"))
    wrapped: Any = attach_inspected_peft_adapter(loaded.model, subject.folder)
    try:
        with quiet_transformers(), _SuppressPeftWarnings():
            untie_causal_model_head(wrapped)
            model = wrapped.merge_and_unload(safe_merge=True)
            return model.eval(), loaded.tokenizer
    except (ValueError, RuntimeError, AttributeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        raise UsageError(
            f"Adapter {str(subject.folder)!r} ({subject.kind}) cannot be merged: {error}",
            expected="an adapter that PEFT can merge",
        ) from error


def attach_inspected_peft_adapter(model: Any, folder: Path) -> Any:
    """Load an adapter onto a model with PEFT."""
    import peft

    try:
        with quiet_transformers(), _SuppressPeftWarnings():
            return peft.PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise UsageError(
            f"Adapter {str(folder)!r} does not fit the model: {error}", expected="the base model of the training"
        ) from error


class _SuppressPeftWarnings(warnings.catch_warnings):
    """Context manager that suppresses PEFT's warnings about tied weights and missing keys."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        for message in ("Model (?:with|has) `tie_word", "Found missing adapter keys", "Input and output embeddings"):
            warnings.filterwarnings("ignore", message=message)
        return entered
