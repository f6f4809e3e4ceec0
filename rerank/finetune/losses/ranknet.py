"""The loss RankNet over all document pairs of a list, with the rank weights of FIRST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import ListTarget


@dataclass(frozen=True, kw_only=True)
class Ranknet:
    """RankNet: weighted mean of the logistic losses of all document pairs.

    L = sum over pairs with rank_i < rank_j of w_ij log(1 + exp(s_j - s_i)), divided by the sum of the w_ij. Source:
    Burges et al., ICML 2005 (RankNet). The weights w_ij = 1 / (rank_i + rank_j) come from FIRST (Reddy et al., EMNLP
    2024, arXiv 2406.15657). FIRST does not divide by the sum of the weights, so its loss for a list of 20 documents is
    about a hundred times as large.

    Attributes:
        weighted: Weight pairs by the ranks of their documents; if False, all pairs have the weight 1.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Burges et al., ICML 2005; weights of Reddy et al., EMNLP 2024, arXiv 2406.15657 (FIRST)"
    summary: ClassVar[str] = "Logistic loss on all pairs, with larger weights at the top of the list"

    weighted: bool = True

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the weighted mean of the logistic losses of all pairs; 0 if there is no pair."""
        from torch.nn.functional import softplus

        ranks = target.ranks
        is_better = ranks[:, None] < ranks[None, :]  # (n, n): document i is ranked above document j
        if not is_better.any():
            return scores.sum() * 0  # a zero that depends on the scores, so that backward works
        weights = (1 / (ranks[:, None] + ranks[None, :])) if self.weighted else scores.new_ones(is_better.shape)
        losses = softplus(scores[None, :] - scores[:, None])  # (n, n): log(1 + exp(s_j - s_i))
        return (weights * losses)[is_better].sum() / weights[is_better].sum()
