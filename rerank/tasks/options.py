"""What backends derive from the settings of their model."""

from __future__ import annotations

from pathlib import Path

from rerank.errors import UsageError, ensure
from rerank.settings import ModelSettings

#: The name under which the arguments of backends refer to the settings of their model.
BackendOptions = ModelSettings


def task_backend_settings_folder(name: str | Path, options: BackendOptions) -> Path | None:
    """Return the absolute path of the folder whose settings apply to a loaded model: the adapter's, or the model's.

    Returns:
        None for an id on the hub.
    """
    folder = Path(options.adapter or name)
    return folder.absolute() if folder.is_dir() else None


def resolve_task_context_size(stated: int | None, options: BackendOptions, model: str) -> int:
    """Return the context size of a model: the size that the model states or, if None, the size in the options.

    A smaller size in the options does not change the result; it limits prompts elsewhere (`PromptBudget`).

    Raises:
        UsageError: The size in the options exceeds the stated size, or neither is known.
    """
    if stated and options.context_size:
        ensure(
            options.context_size <= stated,
            f"--context-size is {options.context_size}",
            expected=f"at most {stated}, the context size of the model",
            remedy="Omit --context-size to use the whole context",
        )
    if (size := stated or options.context_size) is None:
        raise UsageError(
            f"Model {model!r} does not state its context size",
            expected="max_position_embeddings in its config",
            remedy="Set --context-size TOKENS",
        )
    return size
