"""Fira: GaLore, and what GaLore leaves out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rerank.finetune.optimizers.base.options import Rule, Subspace


@dataclass(frozen=True, kw_only=True)
class Fira(Subspace):
    """As `galore`, but the rest of the gradient is added, each row scaled as Adam scaled its projection.

    The norm of the rest grows by at most 1 % a step, for which one more number a matrix is kept. ``scale`` is applied
    to the sum; the authors' code also takes it into what they subtract to get the rest.
    """

    paper: ClassVar[str] = "Chen et al., arXiv 2410.01623 (Fira)"
    summary: ClassVar[str] = "GaLore plus the rest of the gradient, scaled row by row, so that updates have full rank"

    def rule(self) -> Rule:
        """See `Subspace`."""
        return replace(super().rule(), rest="add")

    def keeps(self, long: int, rank: int, short: int) -> int:
        """As `galore`, and a norm."""
        return rank * (2 * long + short) + 1
