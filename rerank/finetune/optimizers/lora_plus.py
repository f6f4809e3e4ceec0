"""The optimizer LoRA+: AdamW with a higher learning rate for the LoRA factor B than for the factor A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import LORA, AdamOptions, require_optimizer_option


@dataclass(frozen=True, kw_only=True)
class LoraPlus(AdamOptions):
    """AdamW whose learning rate for the LoRA factor B is ``ratio`` times its learning rate for the factor A.

    The parameter groups differ from those of peft's `create_loraplus_optimizer`, which uses the learning rate of B for
    vectors (DoRA's magnitudes, biases), applies weight decay to magnitudes, and gives factors of embeddings a fixed
    learning rate. For all other factors, the two optimizers are the same.

    Attributes:
        ratio: Learning rate of B divided by the learning rate of A. A has the learning rate of the recipe.
    """

    paper: ClassVar[str] = "Hayou et al., ICML 2024, arXiv 2402.12354 (LoRA+)"
    summary: ClassVar[str] = "AdamW with a higher learning rate for B than for A"
    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It has different learning rates for lora_A and lora_B, which other adapters lack"

    ratio: float = 16.0

    def __post_init__(self) -> None:
        """Check that ``ratio`` is positive, and check the options of Adam."""
        super().__post_init__()
        require_optimizer_option(self.ratio > 0, "ratio", self.ratio, "a number above 0")

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return AdamW with separate parameter groups for the factors A and B."""
        from rerank.finetune.optimizers.base.exact_adamw import ExactAdamW
        from rerank.finetune.optimizers.base.parameter_groups import make_parameter_groups

        def rate(name: str, weight: Any) -> dict[str, float]:
            is_b = "lora_B" in name or "lora_embedding_B" in name
            return {"lr": lr * self.ratio if is_b else lr}

        return ExactAdamW(make_parameter_groups(model, weight_decay, rate), lr=lr, **self.moments)
