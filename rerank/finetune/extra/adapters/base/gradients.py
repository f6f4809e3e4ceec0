"""Gradients of weight matrices under the training loss, for adapters whose initialisation depends on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rerank.errors import BackendError, UsageError
from rerank.finetune.components import CalibrationBatches


def compute_mean_loss_gradients(
    model: Any, names: Sequence[str], calibrate: CalibrationBatches, *, lists: int | None = None
) -> dict[str, torch.Tensor]:
    """Return a mapping from module name to the gradient of the mean loss, in float32, of shape (rows, columns).

    A gradient is 0 if the loss does not depend on the weight: for example, a loss on attention does not depend on the
    layers above the last layer whose attention it reads. The model is unchanged afterwards. During the call,
    memory holds one gradient per weight, in the weight's data type. ``lists`` is the number of training lists over
    which the loss is averaged; None for the default of the batches.

    Raises:
        UsageError: A weight is quantised and therefore has no gradient.
        BackendError: The loss depends on none of the weights, or a gradient is not finite.
    """
    weights = {name: model.get_submodule(name).weight for name in names}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise UsageError(
                f"{name} is quantised ({weight.dtype}) and has no gradient",
                remedy="Load the model in 16 or 32 bits",
            )
    # The caller's flags and gradients are restored below, even if the loss fails.
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        # Only the targets collect gradients, so memory holds one gradient per target.
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
            parameter.grad = None
        for weight in weights.values():
            weight.requires_grad_(True)
        with torch.enable_grad():
            calibrate.backward(model, lists)
        if all(weight.grad is None for weight in weights.values()):
            raise BackendError(
                f"The loss depends on none of the {len(names)} target matrices, the first of which is {names[0]}",
                expected="targets that the loss depends on",
                remedy="Choose other targets, or let the loss read higher layers",
            )
        return {name: _finite_gradient(name, weight) for name, weight in weights.items()}
    finally:
        for parameter, requires_grad, gradient in before:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


def _finite_gradient(name: str, weight: torch.Tensor) -> torch.Tensor:
    if weight.grad is None:
        # autograd leaves the gradient None if the loss does not depend on the weight.
        return torch.zeros_like(weight, dtype=torch.float32)
    if not torch.isfinite(weight.grad).all():
        raise BackendError(f"The gradient of {name} is not finite", remedy="Calibrate in float32 or bfloat16")
    return weight.grad.detach().float()
