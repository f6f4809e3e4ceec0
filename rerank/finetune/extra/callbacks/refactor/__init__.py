"""The callback refactor: periodic rebalancing of the two low-rank factors of each adapted matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.finetune.components import CalibrationBatches, ParameterKind


@dataclass(frozen=True, kw_only=True)
class Refactor:
    """Callback that periodically rewrites B A as two factors with equal singular values and resets the moments of both.

    The moments are the running means in the state of the optimizer. The product B A is unchanged up to rounding to the
    data type of the factors. A pair whose product does not have the full rank of the adapter is left unchanged. The
    callback never acts after the last step.

    Attributes:
        every: Number of optimizer steps between two rewrites.
    """

    paper: ClassVar[str] = "Glentis et al., arXiv 2505.22922 (weight refactorization and momentum reset)"
    summary: ClassVar[str] = "Balances the factors of an adapter periodically and resets their moments"
    fits: ClassVar[frozenset[ParameterKind]] = frozenset({"lora"})
    reason: ClassVar[str] = "It rewrites lora_A and lora_B, which other adapters lack"

    every: int = 200

    def __post_init__(self) -> None:
        """Check that ``every`` is at least 1."""
        if self.every < 1:
            raise UsageError(f"Option every is {self.every!r}", expected="a whole number above 0")

    def callback(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the trainer callback for the factor pairs of the model."""
        from rerank.finetune.extra.callbacks.refactor.factor_balancing import RefactorizationCallback
        from rerank.finetune.extra.kernels.adamw_variants import find_factor_pairs

        return RefactorizationCallback(find_factor_pairs(model), every=self.every)
