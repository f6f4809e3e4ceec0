"""The optimizer LoRA-Pro: factor gradients whose joint effect is closest to the gradient of the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import LORA, AdamOptions, require_optimizer_option


@dataclass(frozen=True, kw_only=True)
class LoraPro(AdamOptions):
    """AdamW on gradients of A and B that are adjusted in pairs; it needs as much memory as `adamw`.

    This is a variant of the published method. The authors' code reconstructs the m x n gradient of every adapted
    matrix, keeps Adam's moments for the full gradient, and projects the result, which loses LoRA's memory advantage.
    The published results were not obtained with this variant.

    Attributes:
        damping: Term added to the diagonals of A A' and B'B before they are inverted.
    """

    paper: ClassVar[str] = "Wang et al., ICLR 2025, arXiv 2407.18242 (LoRA-Pro)"
    summary: ClassVar[str] = "AdamW on factor gradients adjusted to follow the gradient of the matrix"
    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It adjusts the gradients of lora_A and lora_B together, which other adapters lack"

    damping: float = 1e-8

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        require_optimizer_option(self.damping > 0, "damping", self.damping, "a number above 0")

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return AdamW with the gradient adjustment of LoRA-Pro.

        Raises:
            UsageError: The model has no factor pairs.
        """
        from rerank.finetune.optimizers.base.factor_pairs import FactorAdamW, find_factor_pairs, lora_pro_adjustment
        from rerank.finetune.optimizers.base.parameter_groups import make_parameter_groups

        groups = make_parameter_groups(model, weight_decay)
        return FactorAdamW(
            groups, pairs=find_factor_pairs(model), adjust=lora_pro_adjustment(self.damping), lr=lr, **self.moments
        )
