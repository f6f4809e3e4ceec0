"""ADR-MSE: the rank that a document may expect is to be the label's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import above_zero

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import Wanted


@dataclass(frozen=True, kw_only=True)
class AdrMse:
    """L = (1/n) sum over documents of (r_i - rank_i)^2 / log2(rank_i + 1), r_i = 1 + sum over other j of p(j before i).

    p(j before i) = sigma((s_j - s_i) / temperature), so that r_i is the rank that document i may expect. Source:
    Schlatt et al., ECIR 2025, arXiv 2405.07920 (Rank-DistiLLM), approximate discounted rank MSE.

    Attributes:
        temperature: Divides the differences; small ones make ranks nearly whole.

    Raises:
        UsageError: A temperature of 0 or less.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Schlatt et al., ECIR 2025, arXiv 2405.07920 (Rank-DistiLLM)"
    summary: ClassVar[str] = "Squared error of expected ranks, discounted down the list"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the temperature."""
        above_zero(temperature=self.temperature)

    def __call__(self, scores: Tensor, wanted: Wanted) -> Tensor:
        """See `ListLoss`."""
        beaten = ((scores[None, :] - scores[:, None]) / self.temperature).sigmoid()
        expected = beaten.sum(dim=1) + 0.5  # sigma(0) of the document itself is in the sum
        return ((expected - wanted.ranks) ** 2 / (wanted.ranks + 1).log2()).mean()
