"""Distillation: the scores' distribution over a list is to be the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import above_zero, teacher_scores

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import Wanted


@dataclass(frozen=True, kw_only=True)
class Distill:
    """L = KL(softmax(t / teacher_temperature) || softmax(s / temperature)) over the documents of a list.

    Source: Hinton et al. 2015, arXiv 1503.02531; over the candidates of a query in Lin et al. 2020, arXiv 2010.11386.

    Attributes:
        temperature: Divides the model's scores.
        teacher_temperature: Divides the teacher's.
        normalise: Whether the teacher's scores are first brought to mean 0 and standard deviation 1 within the list, so
            that one temperature serves teachers of any scale.

    Raises:
        UsageError: A temperature of 0 or less.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Hinton et al., arXiv 1503.02531; Lin et al., arXiv 2010.11386"
    summary: ClassVar[str] = "Kullback-Leibler divergence from the teacher's distribution over the list"

    temperature: float = 1.0
    teacher_temperature: float = 1.0
    normalise: bool = True

    def __post_init__(self) -> None:
        """Check the temperatures."""
        above_zero(temperature=self.temperature, teacher_temperature=self.teacher_temperature)

    def __call__(self, scores: Tensor, wanted: Wanted) -> Tensor:
        """See `ListLoss`.

        Raises:
            DataError: The label has no scores.
        """
        given = teacher_scores(wanted, "distill")
        if self.normalise:
            given = (given - given.mean()) / given.std(correction=0).clamp(min=1e-6)
        target = (given / self.teacher_temperature).log_softmax(dim=0)
        return (target.exp() * (target - (scores / self.temperature).log_softmax(dim=0))).sum()
