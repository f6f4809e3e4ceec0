"""InfoNCE: the best document of the label against all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.errors import UsageError
from rerank.finetune.losses.base import above_zero

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import Wanted


@dataclass(frozen=True, kw_only=True)
class Infonce:
    """L = - log softmax(s / temperature) of the label's first document; the mean where several are positive.

    Source: van den Oord et al. 2018, arXiv 1807.03748, equation 4; on attention shares with temperature 0.05 it is the
    auxiliary loss of BlockRank (arXiv 2510.05396).

    Attributes:
        temperature: Divides the scores.
        positives: How many documents from the head of the label are positive.

    Raises:
        UsageError: A number out of its range.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "van den Oord et al., arXiv 1807.03748; BlockRank, arXiv 2510.05396"
    summary: ClassVar[str] = "The label's first document against all others"

    temperature: float = 0.05
    positives: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        above_zero(temperature=self.temperature)
        if self.positives < 1:
            raise UsageError(f"positives={self.positives}", expected="at least 1")

    def __call__(self, scores: Tensor, wanted: Wanted) -> Tensor:
        """See `ListLoss`."""
        logs = (scores / self.temperature).log_softmax(dim=0)
        return -logs[wanted.ranks <= self.positives].mean()
