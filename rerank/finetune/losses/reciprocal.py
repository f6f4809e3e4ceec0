"""A token loss with reciprocal-rank weights, which decrease faster with the rank than those of `importance`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reciprocal:
    """Token loss with w_i = 1 / rank for the tokens of an identifier, and w_i = 0 for all other tokens.

    The top of the list dominates the loss.
    """

    of: ClassVar[Literal["tokens"]] = "tokens"
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = "Negative log-likelihood of the permutation, weighted by 1/rank"

    def weights(self, ranks: Tensor) -> Tensor:
        """Return the reciprocal rank of each token's identifier, shape (tokens,); 0 for other tokens."""
        # Rank 0 marks tokens outside identifiers; the lower bound avoids 1 / 0 for them.
        return (1 / ranks.clamp(min=1)).where(ranks > 0, ranks.new_tensor(0.0))
