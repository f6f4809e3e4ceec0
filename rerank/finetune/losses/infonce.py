"""The contrastive loss InfoNCE, which contrasts the first document of the label with all other documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.errors import UsageError
from rerank.finetune.losses.base import require_positive_loss_options

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import ListTarget


@dataclass(frozen=True, kw_only=True)
class Infonce:
    """Contrastive loss (InfoNCE): negative log-probability of the label's first document among all documents.

    L = -log softmax(s / temperature)_i for the first document i of the label. With several positives, L is the mean
    over the positives. Source: van den Oord et al. 2018, arXiv 1807.03748, equation 4. With attention shares as scores
    and temperature 0.05, it is the auxiliary loss of BlockRank (arXiv 2510.05396).

    Attributes:
        temperature: Divisor of the scores.
        positives: Number of documents, from the top of the label, that count as positive.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "van den Oord et al., arXiv 1807.03748; BlockRank, arXiv 2510.05396"
    summary: ClassVar[str] = "The label's first document against all others"

    temperature: float = 0.05
    positives: int = 1

    def __post_init__(self) -> None:
        """Check that the temperature and the number of positives are positive."""
        require_positive_loss_options(temperature=self.temperature)
        if self.positives < 1:
            raise UsageError(f"Option positives is {self.positives}", expected="at least 1")

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the mean negative log-probability of the positive documents."""
        log_probabilities = (scores / self.temperature).log_softmax(dim=0)  # (n,)
        # Ranks start at 1: the positives are the documents at ranks 1 to `positives`.
        return -log_probabilities[target.ranks <= self.positives].mean()
