"""The plain language-model loss over the written order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Lm:
    """Every token of the label counts the same: w_i = 1."""

    of: ClassVar[Literal["tokens"]] = "tokens"
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "Mean negative log-likelihood of the written order"

    def weights(self, ranks: Tensor) -> Tensor:
        """See `TokenLoss`."""
        return ranks.new_ones(ranks.shape)
