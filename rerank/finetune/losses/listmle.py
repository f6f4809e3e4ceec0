"""The loss ListMLE: negative log-likelihood of the labelled permutation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import ListTarget


@dataclass(frozen=True, kw_only=True)
class Listmle:
    """ListMLE: negative log-likelihood of the labelled permutation under the Plackett-Luce model, divided by n.

    L = (1/n) sum_k [log(sum of exp(s) over the documents at rank k and below) - s_k]. Source: Xia et al., ICML 2008,
    who use the sum over k; the mean gives lists of different lengths the same weight.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Xia et al., ICML 2008 (ListMLE)"
    summary: ClassVar[str] = "Negative log-likelihood of the labelled order under Plackett-Luce"

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the mean negative log-likelihood per rank."""
        ordered = scores[target.ranks.argsort()]  # (n,) in the order of the label
        # (n,): log of the sum of exp(s) from rank k to the end, computed as a cumulative sum from the end.
        log_normalisers = ordered.flip(0).logcumsumexp(dim=0).flip(0)
        return (log_normalisers - ordered).mean()
