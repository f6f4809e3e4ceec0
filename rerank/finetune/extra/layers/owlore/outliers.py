"""How many outliers the weights of each layer have, under the inputs they see. Knows modules, not what it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rerank.errors import UsageError
from rerank.finetune.parts import Calibrate


def outlier_shares(model: nn.Module, layers: Iterable[nn.Module], calibrate: Calibrate, over: float) -> list[float]:
    """The share of outliers in each layer, the mean over its linear maps.

    An entry of W is one where ``A_ij = |W_ij| |X_j|`` is above ``over`` times the mean of A; ``|X_j|`` is the norm of
    input j over all tokens. Source: Yin et al., arXiv 2310.05175 (OWL), section 3.2, as OwLore takes it.

    Args:
        model: Runs the batches.
        layers: Some of its modules.
        calibrate: The batches.
        over: M.

    Raises:
        UsageError: A layer has no linear map that was run.
    """
    inside = [[module for module in layer.modules() if isinstance(module, nn.Linear)] for layer in layers]
    squares: dict[nn.Module, Tensor] = {}
    hooks = [module.register_forward_pre_hook(_adder(squares)) for linears in inside for module in linears]
    try:
        calibrate.forward(model)
    finally:
        for hook in hooks:
            hook.remove()
    shares = []
    for at, linears in enumerate(inside):
        found = [_share(linear.weight, squares[linear], over) for linear in linears if linear in squares]
        if not found:
            raise UsageError(
                f"No linear map of layer {at} saw a batch",
                expected="layers made of torch.nn.Linear",
                remedy="Use lisa, which needs no scores",
            )
        shares.append(sum(found) / len(found))
    return shares


def _adder(squares: dict[nn.Module, Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A hook that adds up the squares of each input over all tokens."""

    def add(module: nn.Module, given: tuple[Any, ...]) -> None:
        seen = given[0].detach().float().flatten(0, -2).square().sum(dim=0)
        squares[module] = squares[module] + seen if module in squares else seen

    return add


@torch.no_grad()
def _share(weight: Tensor, squares: Tensor, over: float) -> float:
    strength = weight.float().abs() * squares.sqrt()
    return float((strength > over * strength.mean()).float().mean())
