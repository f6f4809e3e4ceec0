"""LoRA-FA: the first factor is frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.optimizers.base.options import LORA, Adam, require
from rerank.finetune.parts import Shape


@dataclass(frozen=True, kw_only=True)
class LoraFa(Adam):
    """`build` freezes A; B's gradient becomes dB (A A')^-1 / s^2, the best that A allows, and is stepped by AdamW.

    A layer then has to keep r numbers a token for the backward pass, and not its whole input. `state` is of what still
    trains, so without A.

    Our own, since peft's LoraFAOptimizer takes DoRA's magnitudes for factors, computes in bfloat16 wherever that is to
    be had, keeps moments in the weights' type, and fails on a factor that got no gradient. The correction is its too.

    Attributes:
        damping: What is added to the diagonal of A A' before it is inverted.
    """

    paper: ClassVar[str] = "Zhang et al., arXiv 2308.03303 (LoRA-FA)"
    summary: ClassVar[str] = "AdamW on B alone, its gradient corrected for a frozen A"
    fits: ClassVar[frozenset[Shape]] = LORA
    reason: ClassVar[str] = "It freezes lora_A and trains lora_B, and nothing else has them"

    damping: float = 1e-8

    def __post_init__(self) -> None:
        """Refuse what leaves a matrix without an inverse."""
        super().__post_init__()
        require(self.damping > 0, "damping", self.damping, "a number above 0")

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """See `rerank.finetune.optimizers.base.Optimizer`.

        Raises:
            UsageError: The model has no pairs of factors.
        """
        from rerank.finetune.optimizers.base.factor_pairs import FactorAdamW, frozen_a, pairs
        from rerank.finetune.optimizers.base.parameter_groups import parameter_groups

        found = pairs(model)
        for pair in found:
            pair.a.requires_grad_(False)
        groups = parameter_groups(model, weight_decay)
        return FactorAdamW(groups, pairs=found, adjust=frozen_a(self.damping), lr=lr, **self.moments)
