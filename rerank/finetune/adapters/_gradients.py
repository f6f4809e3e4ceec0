"""The gradients of a model's matrices under the training's own loss, for what looks before it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rerank.errors import BackendError, UsageError
from rerank.finetune.base import Calibrate


def gradients(model: Any, names: Sequence[str], calibrate: Calibrate) -> dict[str, torch.Tensor]:
    """Module name -> (rows, columns) the gradient of the mean loss with respect to its weight, in float32.

    The model is as before afterwards. It holds a gradient for each of these weights meanwhile, in their number type.

    Raises:
        UsageError: A weight is packed, so it has no gradient.
        BackendError: A weight takes no part in the loss, or a gradient is not finite.
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
        return {name: _finite(name, weight.grad) for name, weight in weights.items()}
    finally:
        for parameter, wanted, gradient in asked:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


def _finite(name: str, gradient: torch.Tensor | None) -> torch.Tensor:
    if gradient is None:
        raise BackendError(f"The loss does not depend on {name}", remedy="Leave the module out of targets")
    if not torch.isfinite(gradient).all():
        raise BackendError(f"The gradient of {name} is not finite", remedy="Calibrate in float32 or bfloat16")
    return gradient.detach().float()
