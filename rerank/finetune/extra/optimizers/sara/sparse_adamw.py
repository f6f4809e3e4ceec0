"""AdamW on a fraction of the entries of every parameter: the entries with the smallest absolute values."""

from __future__ import annotations

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
from rerank.finetune.optimizers.base.options import count_optimizer_share_entries


class SparseAdamW(ExactStateOptimizer):
    """AdamW that updates only a fraction of the entries of each parameter, and keeps moments only for these entries.

    Args:
        params: Groups of parameters.
        lr: Learning rate.
        betas: Decay rates of the moments.
        eps: Term added to the square root of the second moment.
        share: Fraction of the entries of every parameter that are trained.
        refine: Number of steps after which entries that are no longer among the smallest are frozen; 0 for never.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        share: float,
        refine: int,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.share = share
        self.refine = refine

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the selected entries of every weight that has a gradient."""
        loss = evaluate_optimizer_closure(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                flat, state = weight.view(-1), self.state[weight]
                if not state:
                    state["entries"] = smallest_weight_positions(
                        flat, count_optimizer_share_entries(flat.numel(), self.share)
                    )
                elif self.refine and int(state["step"]) == self.refine:
                    keep_state_of_small_weights(flat, state)
                entries = state["entries"].long()
                values = widen_optimizer_tensor(flat[entries])
                step_adamw([values], [weight.grad.reshape(-1)[entries]], [state], group)
                flat[entries] = values.to(flat.dtype)
        return loss


def smallest_weight_positions(flat: Tensor, count: int) -> Tensor:
    """Return the sorted indices of the ``count`` entries with the smallest absolute values, as int32 if they fit."""
    indices = flat.abs().topk(count, largest=False, sorted=False).indices.sort().values
    return indices.to(torch.int32) if flat.numel() < 2**31 else indices


def keep_state_of_small_weights(flat: Tensor, state: OptimizerState) -> None:
    """Keep only the trained entries, and their state, whose absolute value is below that of every untrained entry."""
    entries = state["entries"].long()
    is_untrained = torch.ones_like(flat, dtype=torch.bool)
    is_untrained[entries] = False
    if is_untrained.any():
        is_small = flat[entries].abs() < flat[is_untrained].abs().min()
        for key in ("entries", "exp_avg", "exp_avg_sq"):
            state[key] = state[key][is_small]
