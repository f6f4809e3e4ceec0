"""ListNet: the scores' distribution is to be the label's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import above_zero

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import Wanted


@dataclass(frozen=True, kw_only=True)
class Listnet:
    """L = - sum over documents of P_i log softmax(s)_i, P = softmax(-rank / temperature).

    Source: Cao et al., ICML 2007, top-one probabilities, with ranks for grades.

    Attributes:
        temperature: How much of P the best documents have; 1 gives the first 63 %.

    Raises:
        UsageError: A temperature of 0 or less.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Cao et al., ICML 2007 (ListNet)"
    summary: ClassVar[str] = "Cross-entropy between softmaxes of the label's ranks and of the scores"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the temperature."""
        above_zero(temperature=self.temperature)

    def __call__(self, scores: Tensor, wanted: Wanted) -> Tensor:
        """See `ListLoss`."""
        target = (-wanted.ranks / self.temperature).softmax(dim=0)
        return -(target * scores.log_softmax(dim=0)).sum()
