"""Compute the initial factors of LoRA-GA from the gradients of the matrices. This module imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rerank.finetune.adapters.base.peft_files import ADAPTER, iter_lora_layers

#: Size of the random subspace in units of r, and number of its power iterations, in the authors' code.
_OVERSAMPLING, _ITERATIONS = 4, 4


def gradient_start_factors(gradient: torch.Tensor, r: int, gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute B0 (rows, r) and A0 (r, columns) from a gradient (rows, columns) with a randomised SVD.

    B0 = k U[:, r:2r] and A0 = k V[:, :r]' with k = rows^(1/4) / sqrt(gamma). Source: Wang et al., arXiv 2407.05000,
    section 3 and the initialisation "ArB2r" with the scale "stable" of the authors' code.
    """
    u, _, v = torch.svd_lowrank(gradient, q=min(_OVERSAMPLING * r, *gradient.shape), niter=_ITERATIONS)
    scale = len(gradient) ** 0.25 / gamma**0.5
    return scale * u[:, r : 2 * r], scale * v[:, :r].T


@torch.no_grad()
def start_lora_along_gradients(model: Any, gradients: Mapping[str, torch.Tensor], gamma: float) -> None:
    """Initialise LoRA layers and their buffers ``start_A`` and ``start_B``, and subtract s B0 A0 from the base weights.

    Args:
        model: A model with LoRA layers that hold their initial factors (`ResidualBaseLora`).
        gradients: Mapping from module name to gradient; a layer whose gradient is 0 keeps the initial factors of LoRA.
        gamma: Stability constant.
    """
    for name, layer in iter_lora_layers(model):
        if not gradients[name].any():
            continue
        b, a = gradient_start_factors(gradients[name], layer.r[ADAPTER], gamma)
        base = layer.get_base_layer().weight
        # The subtraction is in float32, and rounded once to the data type of the base weights.
        base.copy_(base.float() - layer.scaling[ADAPTER] * b @ a)
        for tensor, value in (
            (layer.lora_A[ADAPTER].weight, a),
            (layer.lora_B[ADAPTER].weight, b),
            (layer.start_A, a),
            (layer.start_B, b),
        ):
            tensor.copy_(value)
