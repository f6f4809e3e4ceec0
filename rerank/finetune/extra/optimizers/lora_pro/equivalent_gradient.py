"""AdamW on the equivalent gradients of factor pairs. This module imports torch.

A change of A by dt gA and of B by dt gB changes W + s B A by dt e, where e = s (B gA + gB A) is the equivalent gradient
of the matrix. Source: LoRA-Pro, Wang et al., arXiv 2407.18242, section 2, and the authors' code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rerank.finetune.optimizers.base.exact_adamw import (
    ExactStateOptimizer,
    OptimizerState,
    evaluate_optimizer_closure,
    step_adamw,
    widen_optimizer_tensor,
)
from rerank.finetune.optimizers.base.factor_pairs import FactorPair, GradientAdjustment, damped_gram_of_factor

logger = logging.getLogger(__name__)


class EquivalentGradientAdamW(ExactStateOptimizer):
    """AdamW whose moments are those of the equivalent gradients (m x n) of factor pairs; plain AdamW on other weights.

    Each step of a pair is

        (gA, gB) <- adjusted dA, dB;  e = s (B gA + gB A)
        D = mean / (root of mean square + eps) of e           Adam's moments, m x n
        (gA, gB) <- adjusted s B' D, s D A'
        A <- A - lr gA - lr weight_decay A, and likewise for B

    The moments of a pair are kept in the state of its B.

    Args:
        params: Groups of parameters; both factors of a pair are in the same group.
        pairs: Factor pairs among these parameters.
        damping: Term added to the diagonals of A A' and B'B before they are inverted.
        lr: Learning rate.
        betas: Decay rates of the moments.
        eps: Term added to the square root of the second moment.
    """

    def __init__(
        self,
        params: Any,
        *,
        pairs: list[FactorPair],
        damping: float,
        lr: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._pairs = {pair.b: pair for pair in pairs}
        self._adjust = lora_pro_adjustment(damping)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`; moments of single factors, which old checkpoints contain, are dropped."""
        super().load_state_dict(state_dict)
        outdated = [b for b, pair in self._pairs.items() if pair.a in self.state and b in self.state]
        for b in outdated:
            self.state.pop(b)
            self.state.pop(self._pairs[b].a)
        if outdated:
            logger.warning("The checkpoint of lora-pro contains unusable moments of single factors; moments start at 0")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient; a factor whose partner has no gradient is updated by plain AdamW."""
        loss = evaluate_optimizer_closure(closure)
        for group in self.param_groups:
            ready = {weight: weight.grad for weight in group["params"] if weight.grad is not None}
            for pair in [self._pairs[weight] for weight in ready if weight in self._pairs]:
                if pair.a in ready:
                    self._step_pair(pair, ready.pop(pair.a), ready.pop(pair.b), group)
            step_adamw(list(ready), list(ready.values()), [self.state[weight] for weight in ready], group)
        return loss

    def _step_pair(self, pair: FactorPair, da: Tensor, db: Tensor, group: OptimizerState) -> None:
        a, b = widen_optimizer_tensor(pair.a), widen_optimizer_tensor(pair.b)
        new_a, new_b = self._adjust(pair, widen_optimizer_tensor(da), widen_optimizer_tensor(db))
        equivalent = pair.scale * (b @ new_a + new_b @ a)  # (m, n)
        # A step of Adam from 0 with the learning rate -1 gives the direction D (m, n).
        direction = torch.zeros_like(equivalent)
        step_adamw([direction], [equivalent], [self.state[pair.b]], {**group, "lr": -1.0, "weight_decay": 0.0})
        new_a, new_b = self._adjust(pair, pair.scale * b.T @ direction, pair.scale * direction @ a.T)
        for weight, change in ((pair.a, new_a), (pair.b, new_b)):
            decayed = widen_optimizer_tensor(weight) * (1 - group["lr"] * group["weight_decay"])
            weight.copy_(decayed - group["lr"] * change)


def lora_pro_adjustment(damping: float) -> GradientAdjustment:
    """Return the adjustment of LoRA-Pro: gA and gB for which s (B gA + gB A) is as close as possible to g.

    Among all such pairs of gradients, gA and gB are the closest to dA and dB.

        gA = (B'B)^-1 dA / s^2 + X A
        gB = (I - B (B'B)^-1 B') dB (A A')^-1 / s^2 - B X
        B'B X + X A A' = -(B'B)^-1 dA A' / s^2

    While B = 0, gA = dA = 0.
    """

    def adjust(pair: FactorPair, da: Tensor, db: Tensor) -> tuple[Tensor, Tensor]:
        dtype = da.dtype
        aa, bb = (
            damped_gram_of_factor(widen_optimizer_tensor(pair.a), damping),
            damped_gram_of_factor(widen_optimizer_tensor(pair.b).T, damping),
        )
        a, b, da, db = (x.to(aa.dtype) for x in (pair.a, pair.b, da, db))
        # A A' and B'B (r x r) are symmetric. In the bases of their eigenvectors, the Sylvester equation for X is solved
        # by one division per entry: X_ij = right_ij / (eigenvalue_i of B'B + eigenvalue_j of A A').
        (values_aa, vectors_aa), (values_bb, vectors_bb) = torch.linalg.eigh(aa), torch.linalg.eigh(bb)
        inverse_aa = (vectors_aa / values_aa) @ vectors_aa.T
        inverse_bb = (vectors_bb / values_bb) @ vectors_bb.T
        right = -(inverse_bb @ da @ a.T) / pair.scale**2
        sums = values_bb[:, None] + values_aa[None, :]
        x = vectors_bb @ ((vectors_bb.T @ right @ vectors_aa) / sums) @ vectors_aa.T
        # (I - B (B'B)^-1 B') dB is the part of dB outside the column space of B; no m x m matrix is needed.
        outside = db - b @ (inverse_bb @ (b.T @ db))
        # gA (r, n) and gB (m, r) as in the docstring, with the solution X from above.
        new_a = inverse_bb @ da / pair.scale**2 + x @ a
        new_b = outside @ inverse_aa / pair.scale**2 - b @ x
        return new_a.to(dtype), new_b.to(dtype)

    return adjust
