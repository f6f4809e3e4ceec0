"""Options, checks and formulas that several optimizers share. Knows shapes, not tensors, and imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rerank.errors import UsageError
from rerank.finetune.parts import Shape

FULL: frozenset[Shape] = frozenset({"full"})
LORA: frozenset[Shape] = frozenset({"lora"})


def require(holds: bool, option: str, value: object, expected: str) -> None:
    """Raise `UsageError` about an option's value unless it ``holds``."""
    if not holds:
        raise UsageError(f"Option {option} is {value!r}", expected=expected)


def chosen(size: int, share: float) -> int:
    """How many of ``size`` entries a ``share`` of them is: rounded up, so that none of a tensor is never.

    >>> chosen(10, 0.25)
    3
    """
    return min(size, math.ceil(share * size))


@dataclass(frozen=True, kw_only=True)
class Adam:
    """What everything that ends in Adam's moments has.

    Attributes:
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of their squares.
        eps: Added to the root of the latter.
    """

    needs: ClassVar[str] = ""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        """Refuse what Adam is not defined for."""
        require(0 <= self.beta1 < 1, "beta1", self.beta1, "a number from 0 to below 1")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "a number from 0 to below 1")
        require(self.eps > 0, "eps", self.eps, "a number above 0")

    @property
    def moments(self) -> dict[str, Any]:
        """The same options, as torch names them."""
        return {"betas": (self.beta1, self.beta2), "eps": self.eps}

    def state(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Two moments of every number."""
        return sum(2 * rows * columns for rows, columns in shapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How gradients of matrices are projected; see `rerank.finetune.optimizers.base.subspace_adamw`.

    Attributes:
        rank: Dimension of the subspace; at most the matrix's shorter side.
        gap: Steps between two choices of the subspace.
        scale: Factor of the update.
        basis: What spans it: singular vectors, columns of the cosine transform, or Gaussian noise.
        rest: ``drop`` what lies outside, ``add`` it scaled (Fira), or scale the whole gradient ``instead`` (APOLLO).
        tensorwise: One scaling factor a matrix instead of one a row.
        history: How many projected gradients make up the Fisher matrix; 0 for none.
        damping: What is added to its diagonal.
        seed: For noise.
    """

    rank: int
    gap: int
    scale: float
    basis: Literal["svd", "cosine", "noise"] = "svd"
    rest: Literal["drop", "add", "instead"] = "drop"
    tensorwise: bool = False
    history: int = 0
    damping: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Subspace(Adam):
    """What optimizers that keep their moments in a subspace share; each says its `rule` and what it `keeps`.

    Attributes:
        rank: Dimension of the subspace; at most the matrix's shorter side.
        gap: Steps between two choices of the subspace.
        scale: Factor of the update of matrices.
    """

    fits: ClassVar[frozenset[Shape]] = FULL
    reason: ClassVar[str] = "It projects gradients of whole weight matrices, and an adapter's are small already"

    rank: int = 128
    gap: int = 200
    scale: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what is no subspace."""
        super().__post_init__()
        require(self.rank > 0, "rank", self.rank, "a whole number above 0")
        require(self.gap > 0, "gap", self.gap, "a whole number above 0")
        require(self.scale > 0, "scale", self.scale, "a number above 0")

    def rule(self) -> Rule:
        """What to do with the gradient of a matrix."""
        return Rule(rank=self.rank, gap=self.gap, scale=self.scale)

    def keeps(self, long: int, rank: int, short: int) -> int:
        """Numbers kept of a (long x short) matrix: both moments, and the basis."""
        return rank * (2 * long + short)

    def state(self, shapes: Sequence[tuple[int, int]]) -> int:
        """By `keeps` for matrices; two moments of every number of what is none."""
        total = 0
        for sides in shapes:
            long, short = max(sides), min(sides)
            total += self.keeps(long, min(self.rank, short), short) if short > 1 else 2 * long
        return total

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """See `rerank.finetune.optimizers.base.Optimizer`."""
        from rerank.finetune.optimizers.base.parameter_groups import matrices, parameter_groups
        from rerank.finetune.optimizers.base.subspace_adamw import SubspaceAdamW

        projected = matrices(model)
        groups = parameter_groups(model, weight_decay, lambda name, weight: {"projected": weight in projected})
        return SubspaceAdamW(groups, lr=lr, rule=self.rule(), **self.moments)
