"""The optimizer Fira: GaLore plus the part of the gradient outside the subspace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.finetune.optimizers.base.options import ProjectionRule
from rerank.finetune.optimizers.base.subspace_options import SubspaceOptions


@dataclass(frozen=True, kw_only=True)
class Fira(SubspaceOptions):
    """GaLore plus the part of the gradient outside the subspace, scaled row by row as Adam scales the projected rows.

    The norm of this scaled part may grow by at most 1 % per step; for this limit, one more number per matrix is kept.

    Attributes:
        scale: Factor that multiplies the update inside the subspace, and the projection that is subtracted from the
            gradient to obtain the part outside; with 1, the default of the authors' code, both are as in the paper.
    """

    paper: ClassVar[str] = "Chen et al., arXiv 2410.01623 (Fira)"
    summary: ClassVar[str] = "GaLore plus the scaled rest of the gradient, so that updates have full rank"

    scale: float = 1.0

    def projection_rule(self) -> ProjectionRule:
        """Return GaLore's projection rule, which also adds the scaled part of the gradient outside the subspace."""
        return replace(super().projection_rule(), rest="add")

    def count_matrix_state(self, long: int, rank: int, short: int) -> int:
        """Return the number of state values of a matrix: both moments, the basis and a norm."""
        return rank * (2 * long + short) + 1
