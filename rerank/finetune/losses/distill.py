"""The distillation loss: divergence from the teacher's score distribution over the list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import require_positive_loss_options, require_teacher_scores

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import ListTarget


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Kullback-Leibler divergence between the score distributions of teacher and model over the documents of a list.

    L = KL(softmax(t / teacher_temperature) || softmax(s / temperature)). Sources: Hinton et al. 2015, arXiv 1503.02531;
    applied to the candidates of a query by Lin et al. 2020, arXiv 2010.11386.

    Attributes:
        temperature: Divisor of the model's scores.
        teacher_temperature: Divisor of the teacher's scores.
        normalise: Normalise the teacher's scores to mean 0 and standard deviation 1 within the list, so that one
            temperature suits teachers with different score scales.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Hinton et al., arXiv 1503.02531; Lin et al., arXiv 2010.11386"
    summary: ClassVar[str] = "Kullback-Leibler divergence from the teacher's distribution over the list"

    temperature: float = 1.0
    teacher_temperature: float = 1.0
    normalise: bool = True

    def __post_init__(self) -> None:
        """Check that both temperatures are positive numbers."""
        require_positive_loss_options(temperature=self.temperature, teacher_temperature=self.teacher_temperature)

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the Kullback-Leibler divergence of one list."""
        teacher = require_teacher_scores(target, "distill")
        if self.normalise:
            # The lower bound avoids a division by 0 if all scores are equal: the distribution is then uniform.
            teacher = (teacher - teacher.mean()) / teacher.std(correction=0).clamp(min=1e-6)
        # (n,) log P of the teacher and log Q of the model; KL(P || Q) = sum_i P_i (log P_i - log Q_i).
        log_p = (teacher / self.teacher_temperature).log_softmax(dim=0)
        log_q = (scores / self.temperature).log_softmax(dim=0)
        return (log_p.exp() * (log_p - log_q)).sum()
