"""ListMLE: the likelihood of the label's order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import Wanted


@dataclass(frozen=True, kw_only=True)
class Listmle:
    """L = (1/n) sum over places k of log(sum over documents at places >= k of exp s) - s_k (Plackett-Luce).

    Source: Xia et al., ICML 2008, which sums; the mean makes lists of different length count alike.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Xia et al., ICML 2008 (ListMLE)"
    summary: ClassVar[str] = "Negative log-likelihood of the label's order under Plackett-Luce"

    def __call__(self, scores: Tensor, wanted: Wanted) -> Tensor:
        """See `ListLoss`."""
        ordered = scores[wanted.ranks.argsort()]
        tails = ordered.flip(0).logcumsumexp(dim=0).flip(0)
        return (tails - ordered).mean()
