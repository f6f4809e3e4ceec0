"""The loss ListNet: cross-entropy between the top-one distributions of label and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import require_positive_loss_options

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import ListTarget


@dataclass(frozen=True, kw_only=True)
class Listnet:
    """ListNet: cross-entropy between the top-one probabilities of the label and of the scores.

    L = -sum_i P_i log softmax(s)_i, with P = softmax(-rank / temperature). Source: Cao et al., ICML 2007; in this
    implementation, ranks replace grades.

    Attributes:
        temperature: Spread of P over the ranks; at 1, the first document has a probability of 63 %.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Cao et al., ICML 2007 (ListNet)"
    summary: ClassVar[str] = "Cross-entropy between the softmax of the labelled ranks and the softmax of the scores"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check that the temperature is a positive number."""
        require_positive_loss_options(temperature=self.temperature)

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the cross-entropy of one list."""
        label_probabilities = (-target.ranks / self.temperature).softmax(dim=0)  # (n,)
        return -(label_probabilities * scores.log_softmax(dim=0)).sum()
