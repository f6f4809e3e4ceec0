"""A model of one linear module and its optimizer steps, tiny models with factors, and a trainer. Needs the extra hf."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import nn

from rerank.finetune.kernels.adamw import projectable_matrices, trainable_parameters
from rerank.finetune.kernels.adamw_variants import find_factor_pairs
from tests.finetune.tiny import tiny_ids, tiny_model


class LinearModel(nn.Module):
    """A model of one linear module, (rows x columns) in float64, with a bias."""

    def __init__(self, rows: int = 9, columns: int = 6) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(0)
        self.map = nn.Linear(columns, rows, dtype=torch.float64)
        self.map.weight.data = torch.randn(rows, columns, generator=chance, dtype=torch.float64)
        self.map.bias.data = torch.randn(rows, generator=chance, dtype=torch.float64)


def gradients(count: int, rows: int = 9, columns: int = 6, *, seed: int = 1) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, columns, generator=chance, dtype=torch.float64) for _ in range(count)]


def trainable_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """Return the shapes of the trainable parameters as `Optimizer.count_state` takes them.

    These are (rows, columns) for `projectable_matrices` and (1, size) for everything else, such as vectors and
    embeddings.
    """
    projectable = projectable_matrices(model)
    return [
        (weight.shape[0], weight.shape[1]) if weight in projectable else (1, weight.numel())
        for _, weight in trainable_parameters(model)
    ]


def run_steps(
    spec: Any, grads: Sequence[torch.Tensor], *, weight_decay: float = 0.0, lr: float = 0.01
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Return the weight of `LinearModel` before and after each step with these gradients, and its final state."""
    model = LinearModel(*grads[0].shape)
    optimizer = spec.build(model, lr=lr, weight_decay=weight_decay)
    weights = [model.map.weight.detach().clone()]
    for grad in grads:
        model.map.weight.grad = grad.clone()
        optimizer.step()
        weights.append(model.map.weight.detach().clone())
    return weights, optimizer.state[model.map.weight]


def lora_model(
    *, dora: bool = False, targets: Sequence[str] = ("q_proj", "v_proj"), r: int = 4, zero: bool = False
) -> Any:
    """Return a tiny model with factors of scale 2; both are random unless the second should be ``zero``."""
    model = tiny_model()
    config = peft.LoraConfig(r=r, lora_alpha=2 * r, target_modules=list(targets), use_dora=dora)
    with warnings.catch_warnings():
        # peft asks transformers for a name that transformers is about to drop.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    for pair in [] if zero else find_factor_pairs(adapted):
        nn.init.normal_(pair.b, std=0.1)
    return adapted


def backward(loss: torch.Tensor) -> float:
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def trainer(model: Any, spec: Any, folder: Path, *, callbacks: Sequence[Any] = (), **options: Any) -> Any:
    """Return a trainer of transformers with accumulation, a schedule, clipping and checkpoints."""
    given = {"max_steps": 6, "save_steps": 3, **options}
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        max_grad_norm=0.5,
        save_strategy="steps",
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **given,
    )
    return transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": ids, "labels": ids} for ids in tiny_ids(rows=64)],
        optimizers=(spec.build(model, lr=1e-3, weight_decay=0.01), None),
        callbacks=list(callbacks),
    )


def same_weights(first: Any, second: Any) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
