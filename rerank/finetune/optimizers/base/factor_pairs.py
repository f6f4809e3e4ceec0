"""Factor pairs B A of low-rank adapters, and AdamW on gradients that are adjusted per pair.

Let W + s B A be the adapted matrix with A (r x n) and B (m x r), and g (m x n) its gradient. Automatic differentiation
gives dA = s B' g and dB = s g A'. A `GradientAdjustment` replaces dA and dB without computing g.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rerank.errors import UsageError
from rerank.finetune.optimizers.base.exact_adamw import ExactAdamW, widen_optimizer_tensor


@dataclass(frozen=True, slots=True)
class FactorPair:
    """The two low-rank factors that an adapter adds to one matrix.

    Attributes:
        a: Factor A, shape (r, n).
        b: Factor B, shape (m, r).
        scale: Scaling factor s in W + s B A.
    """

    a: nn.Parameter
    b: nn.Parameter
    scale: float


#: Function that takes (pair, dA, dB) and returns the gradients to use for A and B.
GradientAdjustment = Callable[[FactorPair, Tensor, Tensor], tuple[Tensor, Tensor]]


def find_factor_pairs(model: nn.Module) -> list[FactorPair]:
    """Return the factor pairs of all LoRA layers of peft in which at least one factor is trainable.

    Factors that are computed from other parameters are omitted.

    Raises:
        UsageError: The model has no trainable factor pair.
    """
    pairs = []
    for module in model.modules():
        scaling = getattr(module, "scaling", None)
        if not isinstance(scaling, Mapping):
            continue
        for name, scale in scaling.items():
            a, b = _trained_factor_matrix(module, "lora_A", name), _trained_factor_matrix(module, "lora_B", name)
            if a is not None and b is not None and (a.requires_grad or b.requires_grad):
                pairs.append(FactorPair(a, b, float(scale)))
    if not pairs:
        raise UsageError(
            "The model has no trainable pair of factors lora_A and lora_B",
            expected="an adapter with factor pairs",
            remedy="Attach an adapter such as lora, or use another optimizer, such as adamw",
        )
    return pairs


def _trained_factor_matrix(module: nn.Module, factor: str, name: str) -> nn.Parameter | None:
    """Return the matrix of a factor; None if the matrix does not exist or is computed from other parameters."""
    layers = getattr(module, factor, None)
    layer = layers[name] if isinstance(layers, nn.ModuleDict) and name in layers else None
    weight = dict(layer.named_parameters(recurse=False)).get("weight") if layer is not None else None
    return weight if weight is not None and weight.ndim == 2 else None


class FactorAdamW(ExactAdamW):
    """AdamW on adjusted gradients for factor pairs, and on the original gradients for all other parameters.

    Args:
        params: Groups of parameters.
        pairs: Factor pairs among these parameters.
        adjust: Function that takes (pair, dA, dB) and returns the gradients to use instead, all at least float32. It is
            called if B has a gradient. If A has no gradient, dA is 0, and the result for A is not used.
        options: Further arguments of `ExactAdamW`.
    """

    def __init__(self, params: Any, *, pairs: list[FactorPair], adjust: GradientAdjustment, **options: Any) -> None:
        super().__init__(params, **options)
        self._pairs = pairs
        self._adjust = adjust

    def adjusted_gradients(self) -> Mapping[Tensor, Tensor]:
        """Return the adjusted gradients of all pairs whose B has a gradient."""
        adjusted: dict[Tensor, Tensor] = {}
        for pair in self._pairs:
            a, b = pair.a.grad, pair.b.grad
            if b is not None:
                da = torch.zeros_like(pair.a) if a is None else a
                new_a, new_b = self._adjust(pair, widen_optimizer_tensor(da), widen_optimizer_tensor(b))
                adjusted |= {pair.a: new_a, pair.b: new_b}
        return adjusted


def damped_gram_of_factor(rows: Tensor, damping: float) -> Tensor:
    """Return X X' + damping I, shape (r, r), for X of shape (r, n); float64 where the device supports it.

    The Gram matrix squares the condition number of X, so that float32 would not be enough for its inverse.
    """
    accurate = rows if rows.device.type == "mps" else rows.double()
    return accurate @ accurate.T + damping * torch.eye(len(rows), device=rows.device, dtype=accurate.dtype)


def lora_fa_adjustment(damping: float) -> GradientAdjustment:
    """Return the gradient adjustment for a frozen A: gB = dB (A A')^-1 / s^2 minimises ||s gB A - g||."""

    def adjust(pair: FactorPair, da: Tensor, db: Tensor) -> tuple[Tensor, Tensor]:
        # The least-squares solution of s gB A = g is gB = g A' (A A')^-1 / s, and g A' = dB / s.
        aa = damped_gram_of_factor(widen_optimizer_tensor(pair.a), damping)
        return da, torch.linalg.solve(aa, db.T.to(aa.dtype)).T.to(db.dtype) / pair.scale**2

    return adjust
