"""Natural GaLore: GaLore along the natural gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.finetune.optimizers.base.options import Rule, Subspace, require


@dataclass(frozen=True, kw_only=True)
class NaturalGalore(Subspace):
    """As `galore`, but Adam gets (F + damping I)^-1 times the projected gradient.

    F is the sum of the outer products of the last ``history`` projected gradients of the same subspace, this one among
    them. These are kept: at 20 the state is 1.74 times that of `adamw` at r = 512 in a model of 7B, against the
    abstract's "without additional memory overhead".

    Attributes:
        history: How many projected gradients make up F.
        damping: What is added to its diagonal.
    """

    paper: ClassVar[str] = "Das, arXiv 2410.16029 (Natural GaLore)"
    summary: ClassVar[str] = "GaLore with projected gradients made natural by their empirical Fisher matrix"

    history: int = 20
    damping: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse what is no Fisher matrix, or one that has no inverse."""
        super().__post_init__()
        require(self.history > 0, "history", self.history, "a whole number above 0")
        require(self.damping > 0, "damping", self.damping, "a number above 0")

    def rule(self) -> Rule:
        """See `Subspace`."""
        return replace(super().rule(), history=self.history, damping=self.damping)

    def keeps(self, long: int, rank: int, short: int) -> int:
        """As `galore`, and the projected gradients."""
        return rank * (2 * long + short) + self.history * long * rank
