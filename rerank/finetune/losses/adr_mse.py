"""The loss ADR-MSE: squared error between the expected and the labelled rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from rerank.finetune.losses.base import require_positive_loss_options

if TYPE_CHECKING:
    from torch import Tensor

    from rerank.finetune.losses.base import ListTarget


@dataclass(frozen=True, kw_only=True)
class AdrMse:
    """Approximate discounted rank MSE: squared error of the expected ranks, with a logarithmic discount.

    L = (1/n) sum_i (r_i - rank_i)^2 / log2(rank_i + 1), with the expected rank r_i = 1 + sum_{j != i} p(j before i) and
    p(j before i) = sigmoid((s_j - s_i) / temperature). Source: Schlatt et al., ECIR 2025, arXiv 2405.07920
    (Rank-DistiLLM).

    Attributes:
        temperature: Divisor of the score differences; small values make expected ranks nearly integral.
    """

    of: ClassVar[Literal["scores"]] = "scores"
    paper: ClassVar[str] = "Schlatt et al., ECIR 2025, arXiv 2405.07920 (Rank-DistiLLM)"
    summary: ClassVar[str] = "Squared error of expected ranks, with a logarithmic discount"

    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check that the temperature is a positive number."""
        require_positive_loss_options(temperature=self.temperature)

    def __call__(self, scores: Tensor, target: ListTarget) -> Tensor:
        """Return the discounted mean squared error of the expected ranks of one list."""
        # (n, n): row i, column j holds p(j before i).
        precedes = ((scores[None, :] - scores[:, None]) / self.temperature).sigmoid()
        # (n,): r_i = 1 + sum_{j != i} p(j before i). The sum over all j already contains sigmoid(0) = 0.5 for j = i, so
        # only 0.5 is added.
        expected_ranks = precedes.sum(dim=1) + 0.5
        return ((expected_ranks - target.ranks) ** 2 / (target.ranks + 1).log2()).mean()
