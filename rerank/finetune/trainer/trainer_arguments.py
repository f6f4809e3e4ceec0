"""Translation of a recipe into the arguments of transformers' trainer. Imports transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from rerank.finetune.recipe import Recipe


def trainer_settings(
    recipe: Recipe, folder: Path, *, steps: int, device: str, half: bool, report_to: Sequence[str]
) -> dict[str, Any]:
    """Return the keyword arguments of `TrainingArguments` for a recipe.

    Args:
        recipe: The recipe.
        folder: Output folder of the training.
        steps: Total number of optimizer steps.
        device: Torch device.
        half: Whether to compute in bfloat16.
        report_to: Names of the services to which metrics are reported.
    """
    table, optimizer, validation = recipe.training, recipe.optimizer, recipe.validation
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
        "eval_strategy": "steps" if validation else "no",
        "eval_steps": validation.every if validation else None,
        "metric_for_best_model": f"eval_{validation.measure}" if validation else None,
        "greater_is_better": not validation or validation.measure != "loss",
        "logging_steps": table.log_every,
        "logging_nan_inf_filter": False,
        "report_to": list(report_to),
        "remove_unused_columns": False,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": device.startswith("cuda"),
        "disable_tqdm": True,
        "average_tokens_across_devices": False,
    }


def first_learning_rate(settings: Mapping[str, Any]) -> float:
    """Return the learning rate of the first step of a linear warm-up, from the result of `trainer_settings`."""
    return float(settings["learning_rate"]) / max(1, int(settings["warmup_steps"]))


class SingleGpu(TrainingArguments):
    """Training arguments that limit a process to one GPU.

    With several GPUs in one process, transformers would use DataParallel, whose batches differ from the batches of the
    recipe. torchrun starts one process per GPU instead.
    """

    @property
    def n_gpu(self) -> int:
        """Number of GPUs of this process: 1, or 0 without a GPU."""
        return min(1, int(super().n_gpu))
