"""A trainer callback that rewrites the factors of an adapter without changing their product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from rerank.finetune.optimizers.base.exact_adamw import widen_to_float32
from rerank.finetune.optimizers.base.factor_pairs import FactorPair


def balance_lora_factors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return factors with the same product and singular values sqrt(S) each; None if the product lacks full rank.

    B = Q_b R_b and A' = Q_a R_a give B A = Q_b (U S V') Q_a', so that B <- Q_b U sqrt(S) and A <- sqrt(S) V' Q_a'. If a
    singular value were 0, both factors would be 0 in that direction, and no gradient could change them any more.

    Args:
        a: Factor A of shape (r, n).
        b: Factor B of shape (m, r).
    """
    rank = len(a)
    if rank > min(a.shape[1], b.shape[0]):
        return None
    # Q (m, r) and R (r, r) of B, Q (n, r) and R (r, r) of A'; the SVD is of the small r x r core only.
    (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T)
    if values[-1] <= torch.finfo(values.dtype).eps * values[0]:
        return None
    root = values.sqrt()
    return (root[:, None] * right) @ q_a.T, q_b @ (left * root)


class RefactorizationCallback(TrainerCallback):
    """Callback that balances every pair and resets its moments after every N optimizer steps, except the last.

    Args:
        pairs: The factor pairs.
        every: Number of optimizer steps between two refactorizations.
    """

    def __init__(self, pairs: list[FactorPair], *, every: int) -> None:
        self.pairs = pairs
        self.every = every

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refactorise if it is due; a checkpoint of this step contains the result."""
        if state.global_step % self.every or state.global_step >= state.max_steps:
            return
        for pair in self.pairs:
            factors = balance_lora_factors(widen_to_float32(pair.a), widen_to_float32(pair.b))
            if factors is not None:
                pair.a.copy_(factors[0])
                pair.b.copy_(factors[1])
                for factor in (pair.a, pair.b):
                    kwargs["optimizer"].state.pop(factor, None)
