"""AdamW on a few entries of every parameter: those smallest in absolute value. Knows tensors, not models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rerank.finetune.optimizers.base.exact_adamw import Exact, State, advance, evaluate, wide
from rerank.finetune.optimizers.base.options import chosen


class SparseAdamW(Exact):
    """AdamW that moves, and keeps moments of, a share of the entries.

    Args:
        params: Groups of parameters.
        lr: Learning rate.
        betas: Decay of the moments.
        eps: Added to the root of the second.
        share: Which share of every parameter's entries moves.
        refine: After that many steps of a parameter those of its entries stop that are no longer among the smallest; 0
            for never.
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
        """Move the chosen entries of every weight that has a gradient."""
        loss = evaluate(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                flat, state = weight.view(-1), self.state[weight]
                if not state:
                    state["entries"] = smallest(flat, chosen(flat.numel(), self.share))
                elif self.refine and int(state["step"]) == self.refine:
                    keep_small(flat, state)
                entries = state["entries"].long()
                values = wide(flat[entries])
                advance([values], [weight.grad.reshape(-1)[entries]], [state], group)
                flat[entries] = values.to(flat.dtype)
        return loss


def smallest(flat: Tensor, count: int) -> Tensor:
    """(count,) the places of the smallest absolute values, in rising order, in 4 bytes each where these do."""
    places = flat.abs().topk(count, largest=False, sorted=False).indices.sort().values
    return places.to(torch.int32) if flat.numel() < 2**31 else places


def keep_small(flat: Tensor, state: State) -> None:
    """Forget the entries that have grown past the smallest of those that never moved."""
    entries = state["entries"].long()
    still = torch.ones_like(flat, dtype=torch.bool)
    still[entries] = False
    if still.any():
        keep = flat[entries].abs() < flat[still].abs().min()
        for kept in ("entries", "exp_avg", "exp_avg_sq"):
            state[kept] = state[kept][keep]
