"""The loss Margin-MSE: squared error between score margins of model and teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import require_teacher_scores

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import ListTarget


@dataclass(frozen=True, kw_only=True)
class MarginMse:
    """Margin-MSE: mean squared error between the centred scores of model and teacher.

    L = (1/n) sum_i ((s_i - mean(s)) - (t_i - mean(t)))^2. The mean squared error of the margins s_i - s_j over all
    ordered pairs equals 2 L. Source: Hofstätter et al. 2020, arXiv 2010.02666 (Margin-MSE), applied to a list instead
    of a pair.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Hofstätter et al., arXiv 2010.02666 (Margin-MSE)"
    summary: ClassVar[str] = "Squared error of the margins between scores, for pointwise judges"

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the mean squared error of the centred scores."""
        teacher = require_teacher_scores(target, "margin-mse")
        # Centring both score vectors replaces the sum over n^2 pairs: mean_ij ((s_i - s_j) - (t_i - t_j))^2 = 2 L.
        return (((scores - scores.mean()) - (teacher - teacher.mean())) ** 2).mean()
