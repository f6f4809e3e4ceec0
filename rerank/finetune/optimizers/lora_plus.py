"""LoRA+: the second factor learns faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.optimizers.base.options import LORA, Adam, require
from rerank.finetune.parts import Shape


@dataclass(frozen=True, kw_only=True)
class LoraPlus(Adam):
    """AdamW with a learning rate of B that is a multiple of A's.

    Groups are our own: peft's `create_loraplus_optimizer` raises the rate of vectors (DoRA's magnitudes, biases) with
    B's, lets magnitudes decay, and gives factors of embeddings a fixed rate. For all other factors both are the same.

    Attributes:
        ratio: Learning rate of B over that of A, which is the training's.
    """

    paper: ClassVar[str] = "Hayou et al., ICML 2024, arXiv 2402.12354 (LoRA+)"
    summary: ClassVar[str] = "AdamW with a higher learning rate for B than for A"
    fits: ClassVar[frozenset[Shape]] = LORA
    reason: ClassVar[str] = "It tells lora_B from lora_A, and nothing else has them"

    ratio: float = 16.0

    def __post_init__(self) -> None:
        """Refuse what is no ratio."""
        super().__post_init__()
        require(self.ratio > 0, "ratio", self.ratio, "a number above 0")

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """See `rerank.finetune.optimizers.base.Optimizer`."""
        from rerank.finetune.optimizers.base.exact_adamw import ExactAdamW
        from rerank.finetune.optimizers.base.parameter_groups import parameter_groups

        def rate(name: str, weight: Any) -> dict[str, float]:
            is_b = "lora_B" in name or "lora_embedding_B" in name
            return {"lr": lr * self.ratio if is_b else lr}

        return ExactAdamW(parameter_groups(model, weight_decay, rate), lr=lr, **self.moments)
