"""The optimizer APOLLO: the gradient, scaled row by row with factors that Adam computes on a random projection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.finetune.optimizers.base.options import ProjectionRule
from rerank.finetune.optimizers.base.subspace_options import SubspaceOptions


@dataclass(frozen=True, kw_only=True)
class Apollo(SubspaceOptions):
    """Adam on a random projection of the gradient; Adam's step sizes then scale the rows of the full gradient.

    APOLLO keeps 2 long r + 2 numbers per (long x short) matrix: both moments, a seed, and the norm of the last update.
    The norm is kept because the norm of an update may grow by at most 1 % per step. APOLLO-Mini is
    ``rank=1,tensorwise=true,scale=11.3`` (the square root of 128).

    This is our own implementation: the package apollo-torch, which transformers uses, keeps Python objects in its
    optimizer state, and training cannot be resumed from such a checkpoint.

    Attributes:
        rank: Dimension of the projection.
        gap: Number of steps between two draws of the projection.
        scale: Factor by which the updates of matrices are multiplied.
        tensorwise: Use one scaling factor per matrix instead of one per row.
        seed: Seed of the projections.
    """

    paper: ClassVar[str] = "Zhu et al., MLSys 2025, arXiv 2412.05270 (APOLLO)"
    summary: ClassVar[str] = "Gradients scaled row by row with the step sizes of Adam on a random projection"

    rank: int = 256
    scale: float = 1.0
    tensorwise: bool = False
    seed: int = 0

    def projection_rule(self) -> ProjectionRule:
        """Return the rule for a random projection whose scaling factors are applied to the full gradient."""
        return replace(
            super().projection_rule(), basis="noise", rest="instead", tensorwise=self.tensorwise, seed=self.seed
        )

    def count_matrix_state(self, long: int, rank: int, short: int) -> int:
        """Return the number of state values of a matrix: both moments, a seed and a norm."""
        return 2 * long * rank + 2
