"""RankNet over all pairs of a list, weighted by ranks as FIRST does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import Wanted


@dataclass(frozen=True, kw_only=True)
class Ranknet:
    """L = sum over pairs with rank_i < rank_j of w_ij log(1 + exp(s_j - s_i)), over the sum of the w_ij.

    Source: Burges et al., ICML 2005 (RankNet); w_ij = 1 / (rank_i + rank_j) is FIRST's (Reddy et al., EMNLP 2024, arXiv
    2406.15657), which sums without dividing: there a list of 20 has a loss some hundred times as large.

    Attributes:
        weighted: Whether pairs count by their ranks; otherwise all the same.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Burges et al., ICML 2005; weights of Reddy et al., EMNLP 2024, arXiv 2406.15657 (FIRST)"
    summary: ClassVar[str] = "Every pair in the label's order, the head of the list first"

    weighted: bool = True

    def __call__(self, scores: Tensor, wanted: Wanted) -> Tensor:
        """See `ListLoss`."""
        from torch.nn.functional import softplus

        ranks = wanted.ranks
        better = ranks[:, None] < ranks[None, :]  # [i, j]: i stands before j
        if not better.any():
            return scores.sum() * 0
        weights = (1 / (ranks[:, None] + ranks[None, :])) if self.weighted else scores.new_ones(better.shape)
        pairs = softplus(scores[None, :] - scores[:, None])
        return (weights * pairs)[better].sum() / weights[better].sum()
