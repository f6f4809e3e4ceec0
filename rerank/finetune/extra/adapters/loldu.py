"""LoLDU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.finetune.adapters.base.frozen_basis import FrozenBasis

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Loldu(FrozenBasis):
    """W = P L D U, lower and upper triangular factors with unit diagonals; the first r numbers of D train.

    What is added to W is P L (Z - D) U over the first r columns of L and rows of U, with Z beginning as D. The paper
    also trains a scale for each matrix, which is one factor of Z more and is left out.

    Attributes:
        r: How many numbers train; all of D where a matrix has fewer, min(rows, columns).
    """

    r: int = 256

    paper: ClassVar[str] = "Shi et al., 2024, arXiv 2410.13618 (LoLDU)"
    summary: ClassVar[str] = "Trains the first r pivots of each matrix's LDU decomposition"

    def ranks(self, model: Any) -> dict[str, int]:
        """See `FrozenBasis`; D ends where the smaller side does, and then all of it trains."""
        return {name: min(self.r, *shape) for name, shape in zip(self.names(model), self.shapes(model), strict=True)}

    def parts(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """See `FrozenBasis`."""
        import torch

        from rerank.finetune.adapters.base.frozen_basis_layers import Down, Up

        permutation, lower, upper = torch.linalg.lu(matrix)
        pivots = upper.diagonal()
        # A pivot of 0 leaves a row that nothing was divided by; what trains along it is then the row as it is.
        unit = upper / torch.where(pivots == 0, torch.ones_like(pivots), pivots)[:, None]
        start = pivots[: self.r]
        return Down(unit[: self.r], start, start), Up(permutation @ lower[:, : self.r])

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: r, or its smaller side if that is less."""
        return sum(min(self.r, *shape) for shape in shapes)
