"""A callback that rewrites the factors of an adapter without changing their product. Knows factors and events."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from rerank.finetune.optimizers.base.exact_adamw import wide
from rerank.finetune.optimizers.base.factor_pairs import Pair


def balanced(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Factors with the same product and equal singular values, sqrt(S) each; None where the product has no full rank.

    B = Q_b R_b and A' = Q_a R_a give B A = Q_b (U S V') Q_a', so that B <- Q_b U sqrt(S) and A <- sqrt(S) V' Q_a'.
    Where a singular value is 0 both factors would be 0 in that direction, and nothing could train them any more.

    Args:
        a: (r x n).
        b: (m x r).
    """
    rank = len(a)
    if rank > min(a.shape[1], b.shape[0]):
        return None
    (in_b, of_b), (in_a, of_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    left, values, right = torch.linalg.svd(of_b @ of_a.T)
    if values[-1] <= torch.finfo(values.dtype).eps * values[0]:
        return None
    root = values.sqrt()
    return (root[:, None] * right) @ in_a.T, in_b @ (left * root)


class Refactoring(TrainerCallback):
    """Balances every pair, and resets its moments, after every so many optimizer steps but the last.

    Args:
        pairs: The factors.
        every: Optimizer steps between two times.
    """

    def __init__(self, pairs: list[Pair], *, every: int) -> None:
        self.pairs = pairs
        self.every = every

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Act where it is time; a checkpoint of this step holds what came of it."""
        if state.global_step % self.every or state.global_step >= state.max_steps:
            return
        for pair in self.pairs:
            found = balanced(wide(pair.a), wide(pair.b))
            if found is not None:
                pair.a.copy_(found[0])
                pair.b.copy_(found[1])
                for factor in (pair.a, pair.b):
                    given["optimizer"].state.pop(factor, None)
