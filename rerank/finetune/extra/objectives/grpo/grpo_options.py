"""Options of GRPO and their checks. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from rerank.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class GrpoOptions:
    """Options of reinforcement learning with GRPO.

    Attributes:
        group: Number of replies per list.
        temperature: Sampling temperature.
        beta: Weight of the KL divergence from the base model (the estimator of equation 4 of the paper); 0 for none.
        max_tokens: Maximum number of tokens per reply; None for the judge's limit, which depends on the list length.
        together: Number of replies per backward pass, a divisor of ``group``; a small number saves memory. None for all
            replies of a batch.
        cutoff: Rank cutoff of nDCG.
    """

    group: int = 8
    temperature: float = 1.0
    beta: float = 0.0
    max_tokens: int | None = None
    together: int | None = None
    cutoff: int = 10

    def __post_init__(self) -> None:
        """Check that the options are in range, and that ``together`` divides ``group``."""
        minima: tuple[tuple[str, int | None, int], ...] = (
            ("group", self.group, 2),
            ("max_tokens", self.max_tokens, 1),
            ("together", self.together, 1),
            ("cutoff", self.cutoff, 1),
        )
        for option, value, minimum in minima:
            if value is not None and value < minimum:
                raise UsageError(f"Option {option} is {value}", expected=f"at least {minimum}")
        if self.temperature <= 0:
            raise UsageError(
                f"Option temperature is {self.temperature}",
                expected="above 0, since greedy decoding would make all replies of a group equal",
            )
        if self.beta < 0:
            raise UsageError(f"Option beta is {self.beta}", expected="at least 0")
        if self.group % (self.together or 1):
            raise UsageError(
                f"Option together is {self.together}, and group is {self.group}", expected="a divisor of group"
            )
