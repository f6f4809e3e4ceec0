"""A recipe in the words of transformers' trainer. Imports transformers at its top; knows no model and no data."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from transformers import TrainingArguments

from rerank.finetune.recipe import Recipe

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def trainer_settings(recipe: Recipe, folder: Path, *, steps: int, device: str, half: bool) -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments`.

    Args:
        recipe: What to do.
        folder: The training's.
        steps: Optimizer steps in all.
        device: Torch device.
        half: Whether the arithmetic is bfloat16.
    """
    table, optimizer, looks = recipe.training, recipe.optimizer, recipe.validation
    logs = importlib.util.find_spec("tensorboard") is not None
    if logs:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": table.batch_size,
        "gradient_accumulation_steps": table.accumulation,
        "learning_rate": optimizer.lr,
        "weight_decay": optimizer.weight_decay,
        "lr_scheduler_type": table.schedule,
        "warmup_steps": round(table.warmup * steps),
        "max_grad_norm": table.max_grad_norm,
        "neftune_noise_alpha": table.neftune or None,
        "bf16": half,
        "use_cpu": device == "cpu",
        "seed": recipe.seed,
        "save_strategy": "steps",
        "save_steps": table.save_every,
        "save_total_limit": table.keep,
        "eval_strategy": "steps" if looks else "no",
        "eval_steps": looks.every if looks else None,
        "metric_for_best_model": f"eval_{looks.measure}" if looks else None,
        "greater_is_better": True,
        "logging_steps": table.log_every,
        "logging_nan_inf_filter": False,
        "report_to": ["tensorboard"] if logs else [],
        "remove_unused_columns": False,
        "dataloader_pin_memory": device.startswith("cuda"),
        "disable_tqdm": True,
        "average_tokens_across_devices": False,
    }


def arguments(kind: type[Arguments], settings: Mapping[str, Any]) -> Arguments:
    """The settings as an object of transformers, or of trl.

    Several GPUs in one process would be DataParallel, whose batches are others than the recipe's; torchrun gives each
    GPU a process of its own.
    """
    made = kind(**settings)
    made._n_gpu = min(1, made.n_gpu)
    return made
