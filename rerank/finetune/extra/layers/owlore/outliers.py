"""Compute the fraction of outlier weights in each layer, based on the weights and on the inputs of the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rerank.errors import UsageError
from rerank.finetune.components import CalibrationBatches


def compute_outlier_shares(
    model: nn.Module, layers: Iterable[nn.Module], calibrate: CalibrationBatches, over: float
) -> list[float]:
    """Return the fraction of outliers in each layer, averaged over its linear modules.

    Entry (i, j) of W is an outlier if ``A_ij = |W_ij| |X_j|`` exceeds ``over`` times the mean of A, where ``|X_j|`` is
    the norm of input j over all tokens. Source: Yin et al., arXiv 2310.05175 (OWL), section 3.2, as used in OwLore.

    Args:
        model: The model that processes the batches.
        layers: Layers of the model.
        calibrate: The calibration batches.
        over: Threshold M.
    """
    linears_per_layer = [[module for module in layer.modules() if isinstance(module, nn.Linear)] for layer in layers]
    squares: dict[nn.Module, Tensor] = {}  # module -> (columns,): sum of squares of each input over all tokens
    hooks = [
        module.register_forward_pre_hook(_hook_adding_squares(squares))
        for linears in linears_per_layer
        for module in linears
    ]
    try:
        calibrate.forward(model)
    finally:
        for hook in hooks:
            hook.remove()
    shares = []
    for index, linears in enumerate(linears_per_layer):
        fractions = [_outlier_share(linear.weight, squares[linear], over) for linear in linears if linear in squares]
        if not fractions:
            raise UsageError(
                f"No linear module of layer {index} received an input",
                expected="layers that consist of torch.nn.Linear modules",
                remedy="Use lisa, which needs no outlier fractions",
            )
        shares.append(sum(fractions) / len(fractions))
    return shares


def _hook_adding_squares(squares: dict[nn.Module, Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """Return a forward hook that adds the squares of a module's inputs, summed over tokens, to ``squares``."""

    def add(module: nn.Module, args: tuple[Any, ...]) -> None:
        batch = args[0].detach().float().flatten(0, -2).square().sum(dim=0)
        squares[module] = squares[module] + batch if module in squares else batch

    return add


@torch.no_grad()
def _outlier_share(weight: Tensor, squares: Tensor, over: float) -> float:
    scores = weight.float().abs() * squares.sqrt()  # A_ij = |W_ij| |X_j|, shape (rows, columns)
    return float((scores > over * scores.mean()).float().mean())
