"""SALT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.finetune.adapters.base.frozen_basis import FrozenBasis
from rerank.finetune.adapters.base.targets import at_least

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Salt(FrozenBasis):
    """W = U S V': the r largest singular values become a s + b, the block of the others gets X Y of rank d added.

    a, b (r numbers each), X (rest x d) and Y (d x rest) train, the rest being the min(rows, columns) - r smaller
    singular values; a = 1, b = 0 and Y = 0 at the start. Saved as a LoRA of rank r + d. All singular directions are
    kept in memory while it trains, which is about as much as the model.

    Attributes:
        r: How many singular values are scaled and shifted.
        d: The rank of what is added to the rest.
    """

    r: int = 64
    d: int = 8

    paper: ClassVar[str] = "Elsayed et al., 2025, arXiv 2503.16055 (SALT)"
    summary: ClassVar[str] = "Scales and shifts large singular values, and adds a low rank among the small ones"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least("d", self.d, 1)

    def ranks(self, model: Any) -> dict[str, int]:
        """See `FrozenBasis`."""
        return {name: rank + self.d for name, rank in super().ranks(model).items()}

    def parts(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """See `FrozenBasis`."""
        import torch

        from rerank.finetune.adapters.base.frozen_basis_layers import SpectrumDown, SpectrumUp

        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return SpectrumDown(v, s[: self.r], self.d), SpectrumUp(u, self.r, self.d)

    def trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """A matrix: 2 r + 2 d (min(rows, columns) - r)."""
        return sum(2 * self.r + 2 * self.d * (min(shape) - self.r) for shape in shapes)
