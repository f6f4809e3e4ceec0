"""The language-modelling loss on the generated permutation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Lm:
    """Language-modelling loss: all tokens of the label have the weight w_i = 1."""

    of: ClassVar[Literal["tokens"]] = "tokens"
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "Mean negative log-likelihood of the permutation"

    def weights(self, ranks: Tensor) -> Tensor:
        """Return the weight 1 for each token, shape (tokens,)."""
        return ranks.new_ones(ranks.shape)
