"""The optimizer Natural GaLore: GaLore with the natural gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.finetune.optimizers.base.options import ProjectionRule, require_optimizer_option
from rerank.finetune.optimizers.base.subspace_options import SubspaceOptions


@dataclass(frozen=True, kw_only=True)
class NaturalGalore(SubspaceOptions):
    """GaLore in which the input of Adam is (F + damping I)^-1 times the projected gradient.

    F is the sum of the outer products of the last ``history`` projected gradients in the same subspace, including the
    current one. These gradients are stored: with ``history=20`` and r = 512, the state for a 7B model is 1.74 times as
    large as the state of `adamw`, although the abstract claims "without additional memory overhead".

    Attributes:
        history: Number of projected gradients in F.
        damping: Term added to the diagonal of F.
    """

    paper: ClassVar[str] = "Das, arXiv 2410.16029 (Natural GaLore)"
    summary: ClassVar[str] = "GaLore with projected gradients preconditioned by their empirical Fisher matrix"

    history: int = 20
    damping: float = 1e-3

    def __post_init__(self) -> None:
        """Check that ``history`` and ``damping`` are positive, and check the options of GaLore."""
        super().__post_init__()
        require_optimizer_option(self.history > 0, "history", self.history, "a whole number above 0")
        require_optimizer_option(self.damping > 0, "damping", self.damping, "a number above 0")

    def projection_rule(self) -> ProjectionRule:
        """Return GaLore's projection rule, with a history of projected gradients."""
        return replace(super().projection_rule(), history=self.history, damping=self.damping)

    def count_matrix_state(self, long: int, rank: int, short: int) -> int:
        """Return the number of state values of a matrix: both moments, the basis and the projected gradients."""
        return rank * (2 * long + short) + self.history * long * rank
