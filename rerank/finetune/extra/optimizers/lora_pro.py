"""LoRA-Pro: gradients of the factors that together come nearest to the gradient of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.optimizers.base.options import LORA, Adam, require
from rerank.finetune.parts import Shape


@dataclass(frozen=True, kw_only=True)
class LoraPro(Adam):
    """Gradients of A and B are adjusted in pairs, then stepped by AdamW: as much memory as `adamw`.

    This is a variant. The authors' released code rebuilds the m x n gradient of every adapted matrix, keeps Adam's
    moments of it in full, and projects what comes out; that gives the memory of LoRA up, and its measured results are
    not this variant's.

    Attributes:
        damping: What is added to the diagonals of A A' and B'B before they are inverted.
    """

    paper: ClassVar[str] = "Wang et al., ICLR 2025, arXiv 2407.18242 (LoRA-Pro)"
    summary: ClassVar[str] = "AdamW on factors' gradients adjusted to follow the gradient of the matrix"
    fits: ClassVar[frozenset[Shape]] = LORA
    reason: ClassVar[str] = "It adjusts the gradients of lora_A and lora_B together, and nothing else has them"

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
        from rerank.finetune.optimizers.base.factor_pairs import FactorAdamW, nearest, pairs
        from rerank.finetune.optimizers.base.parameter_groups import parameter_groups

        groups = parameter_groups(model, weight_decay)
        return FactorAdamW(groups, pairs=pairs(model), adjust=nearest(self.damping), lr=lr, **self.moments)
