"""A steeper weighting of identifiers than the published one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reciprocal:
    """w_i = 1 / rank for tokens of an identifier, 0 for all others: the head of the list is nearly all that counts."""

    of: ClassVar[Literal["tokens"]] = "tokens"
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "Log-likelihood of the written order, identifiers weighted by 1/rank"

    def weights(self, ranks: Tensor) -> Tensor:
        """See `TokenLoss`."""
        return (1 / ranks.clamp(min=1)).where(ranks > 0, ranks.new_tensor(0.0))
