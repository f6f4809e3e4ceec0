"""The adapter LoLDU: trainable pivots of the LDU decomposition of each matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.finetune.extra.adapters.base.frozen_basis import FrozenBasis

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Loldu(FrozenBasis):
    """LoLDU: W = P L D U with unit triangular factors L and U; the first r diagonal entries of D are trained.

    The update of W is P L (Z - D) U, restricted to the first r columns of L and the first r rows of U; Z is trained and
    starts as D. The paper also trains a scale per matrix; it is omitted, because it would only multiply Z.

    Attributes:
        r: Number of trained diagonal entries per matrix; if a matrix has fewer, all min(rows, columns) are trained.
    """

    r: int = 256

    paper: ClassVar[str] = "Shi et al., 2024, arXiv 2410.13618 (LoLDU)"
    summary: ClassVar[str] = "Trains the first r pivots of each matrix's LDU decomposition"
    differs: ClassVar[str] = "Without the trained scale per matrix"

    def ranks(self, model: Any) -> dict[str, int]:
        """Return a mapping from module name to the rank of the saved LoRA: the minimum of r, rows and columns."""
        return {
            name: min(self.r, *shape) for name, shape in zip(self.module_names(model), self.shapes(model), strict=True)
        }

    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return a module for the trainable pivots times U, and a module for the frozen factor P L."""
        import torch

        from rerank.finetune.extra.adapters.base.frozen_basis_layers import DownProjection, UpProjection

        permutation, lower, upper = torch.linalg.lu(matrix)
        pivots = upper.diagonal()
        # W = P L (D U'): D is the diagonal of the upper factor, and U' has a unit diagonal. If a pivot is 0, its row is
        # not divided, and the trained entry multiplies the row itself.
        unit = upper / torch.where(pivots == 0, torch.ones_like(pivots), pivots)[:, None]
        start = pivots[: self.r]
        return DownProjection(unit[: self.r], start, start), UpProjection(permutation @ lower[:, : self.r])

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters: min(r, rows, columns) per matrix."""
        return sum(min(self.r, *shape) for shape in shapes)
