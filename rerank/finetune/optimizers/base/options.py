"""Options, checks and size formulas that several optimizers share. This module does not import torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rerank.errors import UsageError
from rerank.finetune.components import ParameterKind

FULL: frozenset[ParameterKind] = frozenset({"full"})
LORA: frozenset[ParameterKind] = frozenset({"lora"})


def require_optimizer_option(holds: bool, option: str, value: object, expected: str) -> None:
    """Raise a `UsageError` about the value of an option if the condition ``holds`` is False."""
    if not holds:
        raise UsageError(f"Option {option} is {value!r}", expected=expected)


def count_optimizer_share_entries(size: int, share: float) -> int:
    """Return the fraction ``share`` of ``size`` entries as a number of entries, rounded up so that it is never 0.

    >>> count_optimizer_share_entries(10, 0.25)
    3
    """
    return min(size, math.ceil(share * size))


@dataclass(frozen=True, kw_only=True)
class AdamOptions:
    """Options of optimizers that use Adam's moments.

    Attributes:
        beta1: Decay rate of the first moment.
        beta2: Decay rate of the second moment.
        eps: Term added to the square root of the second moment.
    """

    needs: ClassVar[str] = ""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        """Check that ``beta1``, ``beta2`` and ``eps`` are in range."""
        require_optimizer_option(0 <= self.beta1 < 1, "beta1", self.beta1, "a number from 0 to below 1")
        require_optimizer_option(0 <= self.beta2 < 1, "beta2", self.beta2, "a number from 0 to below 1")
        require_optimizer_option(self.eps > 0, "eps", self.eps, "a number above 0")

    @property
    def moments(self) -> dict[str, Any]:
        """The keyword arguments ``betas`` and ``eps`` of torch's optimizers, from the options of the same meaning."""
        return {"betas": (self.beta1, self.beta2), "eps": self.eps}

    def count_state(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of state values: two moments per trainable parameter."""
        return sum(2 * rows * columns for rows, columns in shapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionRule:
    """Rule for the projection of matrix gradients, as `SubspaceAdamW` applies it.

    Attributes:
        rank: Dimension of the subspace; at most the shorter side of the matrix.
        gap: Number of steps between two choices of the subspace.
        scale: Factor by which the update, projected back from the subspace or scaled as a whole, is multiplied.
        basis: Basis of the subspace: singular vectors (``svd``), columns of the cosine transform (``cosine``), or
            Gaussian noise (``noise``).
        rest: Treatment of the part of the gradient outside the subspace. ``drop`` ignores it; ``add`` adds it with a
            scaling factor (Fira); ``instead`` scales the full gradient instead of the projected one (APOLLO).
        tensorwise: Use one scaling factor per matrix instead of one per row.
        history: Number of projected gradients in the Fisher matrix; 0 for no preconditioning.
        damping: Term added to the diagonal of the Fisher matrix.
        seed: Seed of the Gaussian noise.
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
