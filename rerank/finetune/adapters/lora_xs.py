"""LoRA-XS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rerank.finetune.adapters.base.frozen_basis import FrozenBasis

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class LoraXs(FrozenBasis):
    """W + U S R V' for the r largest singular directions of W = U S V'; R (r x r) trains, from 0.

    The paper draws R from a narrow normal distribution instead; at 0 its gradient is no less, and nothing changes at
    the start.
    """

    r: int = 64

    paper: ClassVar[str] = "Bałazy et al., 2024, arXiv 2405.17604 (LoRA-XS)"
    summary: ClassVar[str] = "Trains an r x r matrix between fixed singular directions of each matrix"

    def parts(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """See `FrozenBasis`."""
        import torch

        from rerank.finetune.adapters.base.frozen_basis_layers import Down, Up

        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        nothing = matrix.new_zeros(self.r, self.r)
        return Down(v[: self.r], nothing, nothing), Up(u[:, : self.r] * s[: self.r])

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: r^2."""
        return self.r**2 * len(shapes)
