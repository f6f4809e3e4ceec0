"""The optimizer DCT-AdamW: moments are kept in a subspace spanned by columns of the cosine transform."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.finetune.optimizers.base.options import ProjectionRule
from rerank.finetune.optimizers.base.subspace_options import SubspaceOptions


@dataclass(frozen=True, kw_only=True)
class Dct(SubspaceOptions):
    """GaLore whose basis consists of r columns of the cosine transform, selected by the gradient.

    DCT-AdamW keeps r (2 long + 1) numbers per (long x short) matrix and needs no singular value decomposition. When
    columns are selected, DCT-AdamW computes the whole transform of the shorter side (short x short). Moments of columns
    that remain are kept. The error feedback of the paper is not implemented. The paper selects columns at every step:
    set ``gap=1``.
    """

    paper: ClassVar[str] = "Modoranu et al., arXiv 2505.17967 (DCT-AdamW)"
    summary: ClassVar[str] = "GaLore with columns of the cosine transform as the basis, stored as indices"
    differs: ClassVar[str] = "Without error feedback; columns are selected every gap steps"

    def projection_rule(self) -> ProjectionRule:
        """Return the rule for a projection on columns of the cosine transform."""
        return replace(super().projection_rule(), basis="cosine")

    def count_matrix_state(self, long: int, rank: int, short: int) -> int:
        """Return the number of state values of a matrix: both moments and the indices of the columns."""
        return rank * (2 * long + 1)
