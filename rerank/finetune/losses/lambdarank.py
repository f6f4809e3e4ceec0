"""LambdaRank: pairs weighted by what swapping them would do to nDCG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import above_zero

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import Wanted


@dataclass(frozen=True, kw_only=True)
class Lambdarank:
    """L = sum over pairs with rank_i < rank_j of |g_i - g_j| |1/d_i - 1/d_j| log2(1 + exp(-sigma (s_i - s_j))).

    g = gain / ideal DCG with gains 1 / rank under the label, d = log2(1 + place) at the place that the scores give now.
    Source: Wang et al., CIKM 2018 (LambdaLoss), with the weights of LambdaRank (Burges et al., NIPS 2006);
    gains 1 / rank are for labels without grades, as in FIRST's code.

    Attributes:
        sigma: Steepness.

    Raises:
        UsageError: A sigma of 0 or less.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Burges et al., NIPS 2006; Wang et al., CIKM 2018 (LambdaLoss)"
    summary: ClassVar[str] = "Every pair in the label's order, by how much nDCG it decides"

    sigma: float = 1.0

    def __post_init__(self) -> None:
        """Check the steepness."""
        above_zero(sigma=self.sigma)

    def __call__(self, scores: Tensor, wanted: Wanted) -> Tensor:
        """See `ListLoss`."""
        from torch.nn.functional import softplus

        gains = 1 / wanted.ranks
        place = (-scores.detach()).argsort(stable=True).argsort().float() + 1
        ideal = (gains / (1 + wanted.ranks).log2()).sum()
        discounts = 1 / (1 + place).log2()
        deltas = (gains[:, None] - gains[None, :]).abs() * (discounts[:, None] - discounts[None, :]).abs() / ideal
        pairs = softplus(-self.sigma * (scores[:, None] - scores[None, :])) / scores.new_tensor(2.0).log()
        better = wanted.ranks[:, None] < wanted.ranks[None, :]
        return (deltas * pairs)[better].sum()
