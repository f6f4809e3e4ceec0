"""Ranks from the gradients of the loss, as in CoLoRA."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.parts import Calibrate


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """The rank of a matrix is proportional to the squared norm of its gradient under the training's own loss.

    The paper measures what filters of networks for images contribute, by integrated gradients; here the squared norm at
    the untouched weights stands for that. No rank exceeds the smaller side of its matrix; what is over goes to others.
    A matrix that takes no part in the loss contributes nothing.

    Attributes:
        least: What each matrix gets before the rest is shared out; at 0 some get nothing and are not adapted.
    """

    least: int = 0

    paper: ClassVar[str] = "Park et al., ECCV 2024, arXiv 2408.01099 (CoLoRA; here by gradient norms)"
    summary: ClassVar[str] = "Ranks in proportion to each matrix's squared gradient norm"

    def __post_init__(self) -> None:
        """Check the options."""
        if self.least < 0:
            raise UsageError(f"least={self.least}", expected="at least 0")

    def pattern(self, model: Any, targets: Sequence[str], r: int, calibrate: Calibrate) -> Mapping[str, int]:
        """See `Ranks`.

        Raises:
            UsageError: No targets, a mean rank below 1 or below ``least``, or a model that is quantised.
            BackendError: The loss depends on none of the matrices, or a gradient is not finite.
        """
        from rerank.finetune.adapters.base.gradients import gradients

        if not targets or r < max(1, self.least):
            raise UsageError(
                f"A mean rank of {r} for {len(targets)} matrices, with least={self.least}",
                expected="at least one matrix, and a mean of at least 1 and least",
            )
        found = gradients(model, targets, calibrate)
        weights = {name: float(gradient.double().square().sum()) for name, gradient in found.items()}
        most = {name: min(gradient.shape) for name, gradient in found.items()}
        return in_proportion(weights, r * len(targets), most, least=self.least)


def in_proportion(
    weights: Mapping[str, float], budget: int, most: Mapping[str, int], *, least: int = 0
) -> dict[str, int]:
    """Share a whole number out in proportion to weights, by largest remainders.

    Args:
        weights: Name -> weight, at least 0; equal shares if all are 0.
        budget: What is shared out; the sum of the result, unless the sum of ``most`` is less.
        most: Name -> the most that it may get. What is over is shared out among the others.
        least: What each gets first, as far as ``most`` allows.

    >>> in_proportion({"a": 3.0, "b": 1.0}, 8, {"a": 9, "b": 9})
    {'a': 6, 'b': 2}
    >>> in_proportion({"a": 3.0, "b": 1.0}, 8, {"a": 4, "b": 9})
    {'a': 4, 'b': 4}
    """
    given = {name: min(least, most[name]) for name in weights}
    left = min(budget, sum(most.values())) - sum(given.values())
    while left > 0:
        free = [name for name in weights if given[name] < most[name]]
        total = sum(weights[name] for name in free)
        wanted = {name: left * (weights[name] / total if total else 1 / len(free)) for name in free}
        filled = [name for name in free if wanted[name] >= most[name] - given[name]]
        if filled:  # these get all that they may have, and the others share what is left anew
            for name in filled:
                left -= most[name] - given[name]
                given[name] = most[name]
            continue
        whole = {name: math.floor(share) for name, share in wanted.items()}
        over = left - sum(whole.values())
        first = sorted(free, key=lambda name: whole[name] - wanted[name])[:over]
        for name in free:
            given[name] += whole[name] + (name in first)
        break
    return given
