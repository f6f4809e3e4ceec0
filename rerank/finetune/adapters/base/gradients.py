"""The gradients of a model's matrices under the training's own loss, for what looks before it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rerank.errors import BackendError, UsageError
from rerank.finetune.parts import Calibrate


def gradients(model: Any, names: Sequence[str], calibrate: Calibrate) -> dict[str, torch.Tensor]:
    """Module name -> (rows, columns) the gradient of the mean loss with respect to its weight, in float32.

    It is 0 for a weight that takes no part in the loss, as behind the attention of the last layer that a loss on
    attention watches. The model is as before afterwards. It holds a gradient for each of these weights meanwhile, in
    their number type.

    Raises:
        UsageError: A weight is packed, so it has no gradient.
        BackendError: None of the weights takes part in the loss, or a gradient is not finite.
    """
    weights = {name: model.get_submodule(name).weight for name in names}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise UsageError(
                f"{name} is quantised ({weight.dtype}) and has no gradient",
                remedy="Load the model in 16 or 32 bits",
            )
    asked = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _, _ in asked:
            parameter.requires_grad_(False)
            parameter.grad = None
        for weight in weights.values():
            weight.requires_grad_(True)
        with torch.enable_grad():
            calibrate.backward(model)
        if all(weight.grad is None for weight in weights.values()):
            raise BackendError(
                f"The loss depends on none of the {len(names)} matrices, such as {names[0]}",
                expected="targets that the loss depends on",
                remedy="Name others in targets, or let the loss look at higher layers",
            )
        return {name: _gradient(name, weight) for name, weight in weights.items()}
    finally:
        for parameter, wanted, gradient in asked:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


def _gradient(name: str, weight: torch.Tensor) -> torch.Tensor:
    if weight.grad is None:
        return torch.zeros_like(weight, dtype=torch.float32)
    if not torch.isfinite(weight.grad).all():
        raise BackendError(f"The gradient of {name} is not finite", remedy="Calibrate in float32 or bfloat16")
    return weight.grad.detach().float()
