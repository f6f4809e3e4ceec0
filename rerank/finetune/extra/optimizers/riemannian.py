"""Riemannian preconditioned LoRA: each factor's gradient in the metric that the other gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import MissingPrerequisiteError
from rerank.finetune.optimizers.base.options import LORA, Adam, require
from rerank.finetune.parts import Shape


@dataclass(frozen=True, kw_only=True)
class Riemannian(Adam):
    """dA becomes (B'B + reg I)^-1 dA and dB becomes dB (A A' + reg I)^-1, then AdamW; peft's, around our AdamW.

    Attributes:
        reg: What is added to the diagonals before they are inverted.
    """

    paper: ClassVar[str] = "Zhang and Pilanci, ICML 2024, arXiv 2402.02347 (Riemannian preconditioned LoRA)"
    summary: ClassVar[str] = "AdamW on factors' gradients, each preconditioned by the other factor"
    fits: ClassVar[frozenset[Shape]] = LORA
    reason: ClassVar[str] = "It preconditions lora_A by lora_B and the reverse, and nothing else has them"

    reg: float = 1e-2

    def __post_init__(self) -> None:
        """Refuse what leaves a matrix without an inverse."""
        super().__post_init__()
        require(self.reg > 0, "reg", self.reg, "a number above 0")

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """See `rerank.finetune.optimizers.base.Optimizer`.

        Raises:
            MissingPrerequisiteError: peft is too old to have it.
            UsageError: The model has no pairs of factors.
        """
        try:
            from peft.optimizers import create_riemannian_optimizer
        except ImportError as error:
            raise MissingPrerequisiteError(
                "The installed peft has no create_riemannian_optimizer",
                remedy="Install a newer one: pip install --upgrade peft",
            ) from error
        from rerank.finetune.optimizers.base.exact_adamw import ExactAdamW
        from rerank.finetune.optimizers.base.factor_pairs import pairs
        from rerank.finetune.optimizers.base.parameter_groups import spare_vectors

        pairs(model)  # ours says what to do where there are none
        options = {"lr": lr, "weight_decay": weight_decay, **self.moments}
        optimizer = create_riemannian_optimizer(model, ExactAdamW, reg=self.reg, **options)
        optimizer.param_groups = spare_vectors(optimizer.param_groups)
        return optimizer
