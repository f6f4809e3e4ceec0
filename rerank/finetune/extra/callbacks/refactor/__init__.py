"""Refactorization: the two factors of a matrix are balanced now and then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.parts import Calibrate, Shape


@dataclass(frozen=True, kw_only=True)
class Refactor:
    """B A is written anew as factors of equal singular values, and their moments in the optimizer begin anew.

    The product stays, up to rounding to the factors' number type; a pair whose product has not the rank of the adapter
    is left alone. Never after the last step, which has none after it to gain from that.

    Attributes:
        every: Optimizer steps between two times.
    """

    paper: ClassVar[str] = "Glentis et al., arXiv 2505.22922 (weight refactorization and momentum reset)"
    summary: ClassVar[str] = "Balances the factors of an adapter, and resets their moments, every so many steps"
    fits: ClassVar[frozenset[Shape]] = frozenset({"lora"})
    reason: ClassVar[str] = "It rewrites lora_A and lora_B, and nothing else has them"

    every: int = 200

    def __post_init__(self) -> None:
        """Refuse what never acts."""
        if self.every < 1:
            raise UsageError(f"Option every is {self.every!r}", expected="a whole number above 0")

    def callback(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `rerank.finetune.extra.layers.base.Between`.

        Raises:
            UsageError: The model has no pairs of factors.
        """
        from rerank.finetune.extra.callbacks.refactor.balancing import Refactoring
        from rerank.finetune.optimizers.base.factor_pairs import pairs

        return Refactoring(pairs(model), every=self.every)
