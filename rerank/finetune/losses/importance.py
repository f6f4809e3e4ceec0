"""The importance-aware loss: identifiers count the more the higher they are to stand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Importance:
    """w_i = 1 + 1 / log2(rank + 1) for tokens of an identifier, brackets included, and alpha for all others.

    Source: Liu et al., ACL 2025, arXiv 2412.14574, section on the importance-aware objective. Ranks come from the
    characters of the label, so they are right for any tokenizer; the authors' code knows separators by one token id.

    Attributes:
        alpha: Weight of separators and of the end of the text; at most 1 in the paper, 1 in its code.

    Raises:
        UsageError: An alpha that is no number of at least 0.
    """

    of: ClassVar[Literal["tokens"]] = "tokens"
    paper: ClassVar[str] = "Liu et al., ACL 2025, arXiv 2412.14574 (fullrank)"
    summary: ClassVar[str] = "Log-likelihood of the written order, identifiers weighted by 1 + 1/log2(rank + 1)"

    alpha: float = 1.0

    def __post_init__(self) -> None:
        """Check the weight."""
        if not 0 <= self.alpha < math.inf:
            raise UsageError(f"alpha={self.alpha}", expected="a weight of at least 0")

    def weights(self, ranks: Tensor) -> Tensor:
        """See `TokenLoss`."""
        identifier = 1 + 1 / (ranks.clamp(min=1) + 1).log2()
        return identifier.where(ranks > 0, ranks.new_tensor(self.alpha))
