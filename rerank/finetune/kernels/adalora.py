"""AdaLoRA's rank allocation between optimizer steps, its penalty, and its conversion to a plain LoRA.

The allocator comes from peft. This module stores its moving averages in the model, so that checkpoints contain them,
and derives its schedule from the trainer's number of optimizer steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import TrainerCallback

from rerank.finetune.kernels import peft_files

#: Attributes of peft's allocator that hold moving averages per parameter: the importance, and the fluctuation of the
#: importance (equations 9 and 10 of arXiv 2303.10512).
_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")


def register_importance(model: Any) -> None:
    """Register buffers for the moving averages of peft's rank allocator, so that checkpoints contain them."""
    for name, parameter in list(_trainable(model)):
        for kind in _AVERAGES:
            model.register_buffer(_buffer_name(kind, name), torch.zeros_like(parameter))


def _trainable(model: Any) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.base_model.model.named_parameters():
        if parameter.requires_grad and "lora_" in name and peft_files.ADAPTER in name:
            yield name, parameter


def _buffer_name(kind: str, name: str) -> str:
    return f"adalora_{kind}_{name.replace('.', '-')}"


class RankAllocationCallback(TrainerCallback):
    """Trainer callback that sets peft's pruning schedule and prunes terms after each optimizer step.

    ``tinit`` and ``tfinal`` are the fractions of steps before pruning starts and after ranks are fixed.
    """

    def __init__(self, model: Any, *, tinit: float, tfinal: float) -> None:
        self.model, self.tinit, self.tfinal = model, tinit, tfinal

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        config = self.model.peft_config[peft_files.ADAPTER]
        config.total_step = state.max_steps
        config.tinit = int(state.max_steps * self.tinit)
        config.tfinal = int(state.max_steps * self.tfinal)
        if state.global_step >= config.total_step - config.tfinal and not config.rank_pattern:
            # Training was resumed after the ranks had been fixed. Exactly the pruned terms are 0, so the rank pattern
            # can be read from the values.
            values = ((name, value) for name, value in _trainable(self.model) if "lora_E" in name)
            config.rank_pattern = {name: (value != 0).view(-1).tolist() for name, value in values}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Update the importance scores, then prune low-importance terms, while the step's gradients are available."""
        allocator, model = self.model.base_model.rankallocator, self.model
        for name, parameter in _trainable(model):
            for kind in _AVERAGES:
                getattr(allocator, kind)[name] = getattr(model, _buffer_name(kind, name))
            allocator.ipt.setdefault(name, torch.zeros_like(parameter))
            if parameter.grad is None:  # the loss does not depend on this matrix; peft would fail on a missing gradient
                parameter.grad = torch.zeros_like(parameter)
        # The trainer increments global_step after this event.
        model.base_model.update_and_allocate(state.global_step + 1)
        for name, _ in _trainable(model):
            for kind in _AVERAGES:
                average = getattr(allocator, kind).get(name)  # peft deletes it once ranks are fixed
                if average is not None:
                    getattr(model, _buffer_name(kind, name)).copy_(average)


def orthogonality_penalty(model: Any) -> torch.Tensor:
    """Return the mean over all P and Q of the Frobenius norms of P'P - I and QQ' - I.

    Source: arXiv 2303.10512, equation 4, without squares, as in the authors' code and in peft.
    """
    distances = []
    for _, layer in peft_files.iter_lora_layers(model):
        # P (rows, r) is peft's lora_B, and Q (r, columns) is its lora_A.
        for factor in (layer.lora_B[peft_files.ADAPTER].T, layer.lora_A[peft_files.ADAPTER]):
            identity = torch.eye(len(factor), device=factor.device, dtype=factor.dtype)
            distances.append(torch.linalg.matrix_norm(factor @ factor.T - identity))
    return torch.stack(distances).mean()


def fold_factors(model: Any) -> peft_files.Factors:
    """Return the factors (B, A) of a plain LoRA with scaling factor 1 that is equivalent to the model's AdaLoRA."""
    factors = {}
    for name, layer in peft_files.iter_lora_layers(model):
        b, a, e = (getattr(layer, key)[peft_files.ADAPTER].detach() for key in ("lora_B", "lora_A", "lora_E"))
        # B (rows, r), A (r, columns), e (r, 1): the update is scale B (e * A). peft adds the same 1e-5 to the rank.
        scale = layer.scaling[peft_files.ADAPTER] / (layer.ranknum[peft_files.ADAPTER].detach() + 1e-5)
        factors[name] = (b, a * e * scale)
    return factors
