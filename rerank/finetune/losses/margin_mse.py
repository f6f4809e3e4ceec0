"""Pointwise distillation: differences of scores are to be the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import teacher_scores

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import Wanted


@dataclass(frozen=True, kw_only=True)
class MarginMse:
    """L = mean over documents of ((s_i - mean s) - (t_i - mean t))^2: every margin as the teacher's.

    The mean over all pairs of the squared error of s_i - s_j is twice that. Source: Hofstätter et al. 2020, arXiv
    2010.02666 (Margin-MSE), over a list instead of a pair.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Hofstätter et al., arXiv 2010.02666 (Margin-MSE)"
    summary: ClassVar[str] = "Squared error of the margins between scores, for pointwise judges"

    def __call__(self, scores: Tensor, wanted: Wanted) -> Tensor:
        """See `ListLoss`.

        Raises:
            DataError: The label has no scores.
        """
        given = teacher_scores(wanted, "margin-mse")
        return (((scores - scores.mean()) - (given - given.mean())) ** 2).mean()
