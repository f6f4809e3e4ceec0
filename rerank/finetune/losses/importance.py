"""The importance-aware loss: identifiers at higher ranks of the permutation have larger weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Importance-aware token loss: identifiers at higher ranks have larger weights.

    w_i = 1 + 1 / log2(rank + 1) for the tokens of an identifier, including brackets, and w_i = alpha for all other
    tokens. Source: Liu et al., ACL 2025, arXiv 2412.14574, section on the importance-aware objective. Ranks are derived
    from the character offsets of the identifiers in the label, so that they are correct for any tokenizer; the authors'
    code recognises separators by one token id.

    Attributes:
        alpha: Weight of separators and of the end-of-text token; at most 1 in the paper, 1 in its code.
    """

    of: ClassVar[Literal["tokens"]] = "tokens"
    paper: ClassVar[str] = "Liu et al., ACL 2025, arXiv 2412.14574 (fullrank)"
    summary: ClassVar[str] = "Negative log-likelihood of the permutation, weighted by 1 + 1/log2(rank + 1)"

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Check that the weight ``alpha`` is finite and not negative."""
        if not 0 <= self.alpha < math.inf:
            raise UsageError(f"Option alpha is {self.alpha!r}", expected="a finite weight of at least 0")

    def weights(self, ranks: Tensor) -> Tensor:
        """Return the importance weight of each token, shape (tokens,)."""
        # Rank 0 marks tokens outside identifiers; the lower bound avoids log2(1) = 0 in the denominator for them.
        identifier_weights = 1 + 1 / (ranks.clamp(min=1) + 1).log2()
        return identifier_weights.where(ranks > 0, ranks.new_tensor(self.alpha))
