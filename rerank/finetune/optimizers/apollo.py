"""APOLLO: the gradient itself, scaled row by row as Adam would scale a random projection of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.finetune.optimizers.base.options import Rule, Subspace


@dataclass(frozen=True, kw_only=True)
class Apollo(Subspace):
    """Adam runs on a random projection only to tell by how much each row of the gradient is to be scaled.

    Keeps 2 long r + 2 numbers of a matrix: both moments, a seed and a norm, for updates grow by at most 1 % a step.
    APOLLO-Mini is ``rank=1,tensorwise=true,scale=11.3`` (the root of 128).

    Our own, since the package apollo-torch, which transformers asks for, keeps Python objects in its state, and such a
    checkpoint cannot be resumed.

    Attributes:
        rank: Dimension of the projection.
        gap: Steps after which it is drawn anew.
        scale: Factor of the update of matrices.
        tensorwise: One factor a matrix instead of one a row.
        seed: For the projections.
    """

    paper: ClassVar[str] = "Zhu et al., MLSys 2025, arXiv 2412.05270 (APOLLO)"
    summary: ClassVar[str] = "Gradients scaled row by row, by factors that Adam on a random projection gives"

    rank: int = 256
    scale: float = 1.0
    tensorwise: bool = False
    seed: int = 0

    def rule(self) -> Rule:
        """See `Subspace`."""
        return replace(super().rule(), basis="noise", rest="instead", tensorwise=self.tensorwise, seed=self.seed)

    def keeps(self, long: int, rank: int, short: int) -> int:
        """Both moments, a seed and a norm."""
        return 2 * long * rank + 2
