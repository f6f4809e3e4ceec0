"""The adapter LoRA-XS: a small square matrix between frozen singular vectors of the weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rerank.finetune.extra.adapters.base.frozen_basis import FrozenBasis

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class LoraXs(FrozenBasis):
    """LoRA-XS: the weight becomes W + U S R V', where U S V' is the truncated SVD of W with r singular values.

    Only R of shape (r, r) is trained. It starts at 0, so that the model is unchanged at the start; the paper draws R
    from a narrow normal distribution. The gradient at R = 0 is as large as at these small random values.
    """

    r: int = 64

    paper: ClassVar[str] = "Bałazy et al., 2024, arXiv 2405.17604 (LoRA-XS)"
    summary: ClassVar[str] = "Trains an r x r matrix between frozen singular vectors of each matrix"
    differs: ClassVar[str] = "R starts at 0 instead of a narrow normal distribution"

    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return a module for R V', with a trainable R = 0, and a module for the frozen factor U S."""
        import torch

        from rerank.finetune.extra.adapters.base.frozen_basis_layers import DownProjection, UpProjection

        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        # U (rows, k), s (k,), V' (k, columns) with k = min(rows, columns); S is multiplied into the factor B.
        zero = matrix.new_zeros(self.r, self.r)
        return DownProjection(v[: self.r], zero, zero), UpProjection(u[:, : self.r] * s[: self.r])

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters: r^2 per matrix."""
        return self.r**2 * len(shapes)
