"""The adapter SALT: scaled and shifted large singular values, and a low-rank update among the small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rerank.finetune.adapters.base.targets import require_adapter_option_at_least
from rerank.finetune.extra.adapters.base.frozen_basis import FrozenBasis

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Salt(FrozenBasis):
    """SALT: in W = U S V', the r largest singular values s become a s + b, and the other directions get an update X Y.

    The update X Y of rank d is added to the block of S that belongs to the other directions. a and b (r numbers each),
    X (rest x d) and Y (d x rest) are trained, where rest = min(rows, columns) - r. At the start, a = 1, b = 0 and
    Y = 0. The adapter is saved as a LoRA of rank r + d. All singular directions are kept in memory during training,
    which takes about as much memory as the model.

    Attributes:
        r: Number of singular values that are scaled and shifted.
        d: Rank of the update among the other singular directions.
    """

    r: int = 64
    d: int = 8

    paper: ClassVar[str] = "Elsayed et al., 2025, arXiv 2503.16055 (SALT)"
    summary: ClassVar[str] = "Scales and shifts large singular values, and adds a low-rank update to the rest"
    differs: ClassVar[str] = "Y starts at 0; no ReLU on singular values, and no penalty on the norms of the updates"

    def __post_init__(self) -> None:
        """Check that ``d`` is at least 1, and check the options of the base class."""
        super().__post_init__()
        require_adapter_option_at_least("d", self.d, 1)

    def ranks(self, model: Any) -> dict[str, int]:
        """Return a mapping from module name to the rank of the saved LoRA, which is r + d."""
        return {name: rank + self.d for name, rank in super().ranks(model).items()}

    def factor_modules(self, matrix: torch.Tensor) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Return the modules that hold the singular directions of the matrix and the trainable parameters."""
        import torch

        from rerank.finetune.extra.adapters.base.frozen_basis_layers import SpectralDownProjection, SpectralUpProjection

        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        return SpectralDownProjection(v, s[: self.r], self.d), SpectralUpProjection(u, self.r, self.d)

    def count_trainable(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of trainable parameters: 2 r + 2 d (min(rows, columns) - r) per matrix."""
        return sum(2 * self.r + 2 * self.d * (min(shape) - self.r) for shape in shapes)
