"""Pairs of factors B A of a low-rank adapter, and AdamW on gradients that are adjusted in pairs.

With W + s B A the adapted matrix, g its gradient, A (r x n) and B (m x r), autograd gives dA = s B' g and dB = s g A'.
The functions here give others instead, as their papers do; what they do not get is g itself, which is never built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rerank.errors import UsageError
from rerank.finetune.optimizers.base.exact_adamw import ExactAdamW, wide


@dataclass(frozen=True, slots=True)
class Pair:
    """The factors of one matrix.

    Attributes:
        a: (r x n).
        b: (m x r).
        scale: s in W + s B A.
    """

    a: nn.Parameter
    b: nn.Parameter
    scale: float


Adjust = Callable[[Pair, Tensor, Tensor], tuple[Tensor, Tensor]]


def pairs(model: nn.Module) -> list[Pair]:
    """All factors of peft's LoRA layers that are matrices of their own and of which at least one trains.

    Raises:
        UsageError: There are none.
    """
    found = []
    for module in model.modules():
        scaling = getattr(module, "scaling", None)
        if not isinstance(scaling, Mapping):
            continue
        for name, scale in scaling.items():
            a, b = _weight(module, "lora_A", name), _weight(module, "lora_B", name)
            if a is not None and b is not None and (a.requires_grad or b.requires_grad):
                found.append(Pair(a, b, float(scale)))
    if not found:
        raise UsageError(
            "The model has no trainable pair lora_A, lora_B",
            expected="a LoRA-shaped adapter",
            remedy="Attach an adapter such as lora, or take another optimizer, such as adamw",
        )
    return found


def _weight(module: nn.Module, factor: str, name: str) -> nn.Parameter | None:
    """A factor's matrix; None where there is none, or where it is computed from something else."""
    held = getattr(module, factor, None)
    layer = held[name] if isinstance(held, nn.ModuleDict) and name in held else None
    weight = layer._parameters.get("weight") if layer is not None else None
    return weight if weight is not None and weight.ndim == 2 else None


class FactorAdamW(ExactAdamW):
    """AdamW on adjusted gradients of pairs, and on their own of everything else.

    Args:
        params: Groups of parameters.
        pairs: The pairs among them.
        adjust: (pair, dA, dB) -> what to use instead; all wide. It is asked where B has a gradient; dA is 0 where A has
            none, and what it gives for A is then not used.
        options: As for `ExactAdamW`.
    """

    def __init__(self, params: Any, *, pairs: list[Pair], adjust: Adjust, **options: Any) -> None:
        super().__init__(params, **options)
        self._pairs = pairs
        self._adjust = adjust

    def adjusted(self) -> Mapping[Tensor, Tensor]:
        """See `ExactAdamW`."""
        other: dict[Tensor, Tensor] = {}
        for pair in self._pairs:
            a, b = pair.a.grad, pair.b.grad
            if b is not None:
                da = torch.zeros_like(pair.a) if a is None else a
                new_a, new_b = self._adjust(pair, wide(da), wide(b))
                other |= {pair.a: new_a, pair.b: new_b}
        return other


def gram(rows: Tensor, damping: float) -> Tensor:
    """(r x r) X X' + damping I of X (r x n), in float64 where the device has it: its inverse squares the condition."""
    accurate = rows if rows.device.type == "mps" else rows.double()
    return accurate @ accurate.T + damping * torch.eye(len(rows), device=rows.device, dtype=accurate.dtype)


def frozen_a(damping: float) -> Adjust:
    """Of B alone: gB = dB (A A')^-1 / s^2, for which s gB A is the nearest to g that A allows."""

    def adjust(pair: Pair, da: Tensor, db: Tensor) -> tuple[Tensor, Tensor]:
        aa = gram(wide(pair.a), damping)
        return da, torch.linalg.solve(aa, db.T.to(aa.dtype)).T.to(db.dtype) / pair.scale**2

    return adjust


def nearest(damping: float) -> Adjust:
    """LoRA-Pro: the gradients for which s (B gA + gB A) is nearest to g, of these those nearest to dA and dB.

        gA = (B'B)^-1 dA / s^2 + X A
        gB = (I - B (B'B)^-1 B') dB (A A')^-1 / s^2 - B X
        B'B X + X A A' = -(B'B)^-1 dA A' / s^2

    Source: Wang et al., arXiv 2407.18242, theorems 2.1 and 2.3. While B = 0, gA = dA = 0.
    """

    def adjust(pair: Pair, da: Tensor, db: Tensor) -> tuple[Tensor, Tensor]:
        kind = da.dtype
        aa, bb = gram(wide(pair.a), damping), gram(wide(pair.b).T, damping)
        a, b, da, db = (x.to(aa.dtype) for x in (pair.a, pair.b, da, db))
        # Both are symmetric: in the bases of their eigenvectors the Sylvester equation is one division a number.
        (of_aa, in_aa), (of_bb, in_bb) = torch.linalg.eigh(aa), torch.linalg.eigh(bb)
        inverse = (in_bb / of_bb) @ in_bb.T
        right = -(inverse @ da @ a.T) / pair.scale**2
        x = in_bb @ ((in_bb.T @ right @ in_aa) / (of_bb[:, None] + of_aa[None, :])) @ in_aa.T
        outside = db - b @ (inverse @ (b.T @ db))
        new_a = inverse @ da / pair.scale**2 + x @ a
        new_b = outside @ ((in_aa / of_aa) @ in_aa.T) / pair.scale**2 - b @ x
        return new_a.to(kind), new_b.to(kind)

    return adjust
