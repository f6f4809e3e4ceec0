"""DCT-AdamW: moments of matrices in the span of some columns of the cosine transform."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.finetune.optimizers.base.options import Rule, Subspace


@dataclass(frozen=True, kw_only=True)
class Dct(Subspace):
    """As `galore`, but of a fixed basis, of which the r columns are used that the gradient favours.

    Keeps r (2 long + 1) numbers of a matrix, and needs no singular value decomposition. For as long as it chooses it
    builds the whole transform of the shorter side, short x short. Moments of columns that stay stay with them. The
    paper's error feedback is not here, and its choice at every step is ``gap=1``.
    """

    paper: ClassVar[str] = "Modoranu et al., arXiv 2505.17967 (DCT-AdamW)"
    summary: ClassVar[str] = "GaLore with columns of the cosine transform for singular vectors: only indices are kept"

    def rule(self) -> Rule:
        """See `Subspace`."""
        return replace(super().rule(), basis="cosine")

    def keeps(self, long: int, rank: int, short: int) -> int:
        """Both moments, and the indices."""
        return rank * (2 * long + 1)
