"""A trainer callback that rewrites the factors of an adapter without changing their product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from rerank.finetune.extra.kernels.adamw_variants import FactorPair
from rerank.finetune.kernels.adamw import widen


def balance_lora_factors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return factors (A, B) with the same product B A and equal singular values; None if the product lacks full rank.

    With B = Q_b R_b and A' = Q_a R_a, B A = Q_b (U S V') Q_a', where U S V' is the SVD of R_b R_a'. The new factors are
    B = Q_b U sqrt(S) and A = sqrt(S) V' Q_a'. If a singular value were 0, both factors would be 0 in that direction,
    and no gradient could change them any more.

    Args:
        a: Factor A of shape (r, n).
        b: Factor B of shape (m, r).
    """
    rank = len(a)
    if rank > min(a.shape[1], b.shape[0]):
        return None
    # B = q_b r_b with shapes (m, r) and (r, r), A' = q_a r_a with shapes (n, r) and (r, r). Only the SVD of the small
    # r x r core is computed.
    (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T)
    if values[-1] <= torch.finfo(values.dtype).eps * values[0]:
        return None
    root = values.sqrt()
    return (root[:, None] * right) @ q_a.T, q_b @ (left * root)


class RefactorizationCallback(TrainerCallback):
    """Callback that balances all factor pairs and resets their moments every N optimizer steps, but not after the last.

    Args:
        pairs: The factor pairs.
        every: Number of optimizer steps between two rewrites of the factors.
    """

    def __init__(self, pairs: list[FactorPair], *, every: int) -> None:
        self.pairs = pairs
        self.every = every

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Balance the factors after every N steps; a checkpoint of this step contains the balanced factors."""
        if state.global_step % self.every or state.global_step >= state.max_steps:
            return
        for pair in self.pairs:
            factors = balance_lora_factors(widen(pair.a), widen(pair.b))
            if factors is not None:
                pair.a.copy_(factors[0])
                pair.b.copy_(factors[1])
                for factor in (pair.a, pair.b):
                    kwargs["optimizer"].state.pop(factor, None)
