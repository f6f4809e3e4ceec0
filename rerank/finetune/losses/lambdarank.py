"""The loss LambdaRank: document pairs weighted by the change of nDCG when they are swapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import require_positive_loss_options

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import ListTarget


@dataclass(frozen=True, kw_only=True)
class Lambdarank:
    """LambdaRank: logistic loss on all pairs, weighted by the change of nDCG if the two documents are swapped.

    L = sum over pairs with rank_i < rank_j of |g_i - g_j| |1/d_i - 1/d_j| log2(1 + exp(-sigma (s_i - s_j))). Here, g is
    the gain 1 / rank under the label, divided by the ideal DCG; d = log2(1 + rank) with the rank under the current
    scores. Source: Wang et al., CIKM 2018 (LambdaLoss), with the pair weights of LambdaRank (Burges et al., NIPS 2006).
    The gain 1 / rank works for labels without grades; FIRST's code uses it too.

    Attributes:
        sigma: Steepness of the logistic function.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Burges et al., NIPS 2006; Wang et al., CIKM 2018 (LambdaLoss)"
    summary: ClassVar[str] = "Logistic loss on all pairs, weighted by the nDCG change of a swap"

    sigma: float = 1.0

    def __post_init__(self) -> None:
        """Check that ``sigma`` is a positive number."""
        require_positive_loss_options(sigma=self.sigma)

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the weighted sum of the logistic losses of all pairs."""
        from torch.nn.functional import softplus

        # All (n,): gains under the label, ranks under the current scores, and their discounts 1 / d.
        gains = 1 / target.ranks
        current_ranks = (-scores.detach()).argsort(stable=True).argsort().float() + 1
        discounts = 1 / (1 + current_ranks).log2()
        ideal_dcg = (gains / (1 + target.ranks).log2()).sum()
        # (n, n): |delta nDCG| if documents i and j swap ranks; constant, since ranks have no gradient.
        deltas = (gains[:, None] - gains[None, :]).abs() * (discounts[:, None] - discounts[None, :]).abs() / ideal_dcg
        # (n, n): log2(1 + exp(-sigma (s_i - s_j))).
        losses = softplus(-self.sigma * (scores[:, None] - scores[None, :])) / scores.new_tensor(2.0).log()
        is_better = target.ranks[:, None] < target.ranks[None, :]
        return (deltas * losses)[is_better].sum()
