"""Options shared by the optimizers that keep their moments in a subspace. Only `build` imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import FULL, AdamOptions, ProjectionRule, require_optimizer_option


@dataclass(frozen=True, kw_only=True)
class SubspaceOptions(AdamOptions):
    """Options of optimizers that save memory by keeping their moments in a subspace; subclasses define the projection.

    Attributes:
        rank: Dimension of the subspace; at most the shorter side of the matrix.
        gap: Number of steps between two choices of the subspace.
        scale: Factor by which the updates of matrices are multiplied.
    """

    fits: ClassVar[frozenset[ParameterKind]] = FULL
    reason: ClassVar[str] = "It projects gradients of whole weight matrices; those of adapters are already small"

    rank: int = 128
    gap: int = 200
    scale: float = 0.25

    def __post_init__(self) -> None:
        """Check that ``rank``, ``gap`` and ``scale`` are positive, and check the options of Adam."""
        super().__post_init__()
        require_optimizer_option(self.rank > 0, "rank", self.rank, "a whole number above 0")
        require_optimizer_option(self.gap > 0, "gap", self.gap, "a whole number above 0")
        require_optimizer_option(self.scale > 0, "scale", self.scale, "a number above 0")

    def projection_rule(self) -> ProjectionRule:
        """Return the rule for the projection of matrix gradients."""
        return ProjectionRule(rank=self.rank, gap=self.gap, scale=self.scale)

    def count_matrix_state(self, long: int, rank: int, short: int) -> int:
        """Return the number of state values of a (long x short) matrix: both moments and the basis."""
        return rank * (2 * long + short)

    def count_state(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the sum of `count_matrix_state` over the matrices, plus two moments per entry of other parameters."""
        total = 0
        for sides in shapes:
            long, short = max(sides), min(sides)
            # Vectors and embeddings, given as (1, size), keep the two moments of AdamW.
            total += self.count_matrix_state(long, min(self.rank, short), short) if short > 1 else 2 * long
        return total

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return the optimizer over the trainable parameters of the model."""
        from rerank.finetune.optimizers.base.parameter_groups import make_parameter_groups, projectable_matrices
        from rerank.finetune.optimizers.base.subspace_adamw import SubspaceAdamW

        projected = projectable_matrices(model)
        groups = make_parameter_groups(model, weight_decay, lambda name, weight: {"projected": weight in projected})
        return SubspaceAdamW(groups, lr=lr, rule=self.projection_rule(), **self.moments)
