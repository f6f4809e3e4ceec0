"""The optimizer LoRA-FA: training of the LoRA factor B with a frozen factor A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import LORA, AdamOptions, require_optimizer_option


@dataclass(frozen=True, kw_only=True)
class LoraFa(AdamOptions):
    """AdamW on the LoRA factor B with the gradient dB (A A')^-1 / s^2, the least-squares optimum; `build` freezes A.

    For the backward pass, a layer then keeps r numbers per token instead of its whole input. `count_state` counts only
    the parameters that are still trained, without A.

    This is our own implementation. peft's LoraFAOptimizer uses the same correction, but it treats DoRA's magnitudes as
    factors, computes in bfloat16 wherever bfloat16 is available, keeps moments in the data type of the weights, and
    fails on a factor without a gradient.

    Attributes:
        damping: Term added to the diagonal of A A' before it is inverted.
    """

    paper: ClassVar[str] = "Zhang et al., arXiv 2308.03303 (LoRA-FA)"
    summary: ClassVar[str] = "AdamW on B only, with its gradient corrected for a frozen A"
    differs: ClassVar[str] = "The gradient of B is corrected as in peft's LoraFAOptimizer"
    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It freezes lora_A and trains lora_B, which other adapters lack"

    damping: float = 1e-8

    def __post_init__(self) -> None:
        """Check that ``damping`` is positive, and check the options of Adam."""
        super().__post_init__()
        require_optimizer_option(self.damping > 0, "damping", self.damping, "a number above 0")

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return the optimizer over the factors B, after freezing the factors A of the model."""
        from rerank.finetune.optimizers.base.factor_pairs import FactorAdamW, find_factor_pairs, lora_fa_adjustment
        from rerank.finetune.optimizers.base.parameter_groups import make_parameter_groups

        pairs = find_factor_pairs(model)
        for pair in pairs:
            pair.a.requires_grad_(False)
        groups = make_parameter_groups(model, weight_decay)
        return FactorAdamW(groups, pairs=pairs, adjust=lora_fa_adjustment(self.damping), lr=lr, **self.moments)
