"""The optimizer Fira: GaLore plus the part of the gradient outside the subspace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.finetune.optimizers.base.options import ProjectionRule
from rerank.finetune.optimizers.base.subspace_options import SubspaceOptions


@dataclass(frozen=True, kw_only=True)
class Fira(SubspaceOptions):
    """GaLore plus the rest of the gradient (outside the subspace), each row scaled as Adam scales its projection.

    The norm of the scaled rest may grow by at most 1 % per step; for this limit, one more number per matrix is kept.

    Attributes:
        scale: Factor by which both the update inside the subspace and the part of the gradient that is subtracted to
            compute the rest are multiplied; with 1, the default of the authors' code, both are as in the paper.
    """

    paper: ClassVar[str] = "Chen et al., arXiv 2410.01623 (Fira)"
    summary: ClassVar[str] = "GaLore plus the scaled rest of the gradient, so that updates have full rank"

    scale: float = 1.0

    def projection_rule(self) -> ProjectionRule:
        """Return GaLore's projection rule, with the scaled rest of the gradient added."""
        return replace(super().projection_rule(), rest="add")

    def count_matrix_state(self, long: int, rank: int, short: int) -> int:
        """Return the number of state values of a matrix: both moments, the basis and a norm."""
        return rank * (2 * long + short) + 1
