"""The optimizer Riemannian preconditioned LoRA: each factor's gradient is preconditioned by the other factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.errors import MissingPrerequisiteError
from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import LORA, AdamOptions, require_optimizer_option


@dataclass(frozen=True, kw_only=True)
class Riemannian(AdamOptions):
    """AdamW on preconditioned gradients of LoRA factors: (B'B + reg I)^-1 dA for A, and dB (A A' + reg I)^-1 for B.

    peft computes the preconditioned gradients, and this package's AdamW uses them.

    Attributes:
        reg: Term added to the diagonals of B'B and A A' before they are inverted.
    """

    paper: ClassVar[str] = "Zhang and Pilanci, ICML 2024, arXiv 2402.02347 (Riemannian preconditioned LoRA)"
    summary: ClassVar[str] = "AdamW on factor gradients, each preconditioned by the other factor"
    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It preconditions lora_A by lora_B and vice versa, which other adapters lack"

    reg: float = 1e-2

    def __post_init__(self) -> None:
        """Check that ``reg`` is positive, and check the options of Adam."""
        super().__post_init__()
        require_optimizer_option(self.reg > 0, "reg", self.reg, "a number above 0")

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return peft's preconditioned optimizer, with vectors exempt from weight decay."""
        try:
            from peft.optimizers import create_riemannian_optimizer
        except ImportError as error:
            raise MissingPrerequisiteError(
                "The installed version of peft lacks create_riemannian_optimizer",
                remedy="Run: pip install --upgrade peft",
            ) from error
        from rerank.finetune.optimizers.base.exact_adamw import ExactAdamW
        from rerank.finetune.optimizers.base.factor_pairs import find_factor_pairs
        from rerank.finetune.optimizers.base.parameter_groups import exempt_vectors_from_decay

        find_factor_pairs(model)  # raises an error with a remedy if the model has no factor pairs
        options = {"lr": lr, "weight_decay": weight_decay, **self.moments}
        optimizer = create_riemannian_optimizer(model, ExactAdamW, reg=self.reg, **options)
        optimizer.param_groups = exempt_vectors_from_decay(optimizer.param_groups)
        return optimizer
