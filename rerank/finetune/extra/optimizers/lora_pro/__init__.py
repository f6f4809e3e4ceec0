"""The optimizer LoRA-Pro: factor gradients whose joint effect is closest to the gradient of the matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import LORA, AdamOptions, require_optimizer_option


@dataclass(frozen=True, kw_only=True)
class LoraPro(AdamOptions):
    """AdamW on the equivalent gradient of each factor pair; every update is mapped back to the two factors.

    The equivalent gradient is the gradient of the matrix that a joint change of both factors corresponds to. Adam's
    moments have the size of the adapted matrix, m n, instead of the sizes of its factors: the optimizer needs as much
    memory as AdamW in full fine-tuning of the adapted matrices.

    Attributes:
        damping: Term added to the diagonals of A A' and B'B before they are inverted.
    """

    paper: ClassVar[str] = "Wang et al., ICLR 2025, arXiv 2407.18242 (LoRA-Pro)"
    summary: ClassVar[str] = "Factor steps that follow AdamW on the matrix; keeps full-size moments"
    fits: ClassVar[frozenset[ParameterKind]] = LORA
    reason: ClassVar[str] = "It adjusts the gradients of lora_A and lora_B together, which other adapters lack"

    damping: float = 1e-8

    def __post_init__(self) -> None:
        """Check that ``damping`` is positive, and check the options of Adam."""
        super().__post_init__()
        require_optimizer_option(self.damping > 0, "damping", self.damping, "a number above 0")

    def count_state(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the number of state values: 2 m n per pair of A (r x n) and B (m x r), and 2 per vector entry."""
        vectors = sum(2 * size for rows, size in shapes if rows == 1)
        matrices = [shape for shape in shapes if min(shape) > 1]
        return vectors + sum(2 * m * n for (_, n), (m, _) in zip(matrices[::2], matrices[1::2], strict=True))

    def build(self, model: Any, *, lr: float, weight_decay: float) -> Any:
        """Return the optimizer over the trainable parameters of the model."""
        from rerank.finetune.extra.optimizers.lora_pro.equivalent_gradient import EquivalentGradientAdamW
        from rerank.finetune.optimizers.base.factor_pairs import find_factor_pairs
        from rerank.finetune.optimizers.base.parameter_groups import make_parameter_groups

        groups = make_parameter_groups(model, weight_decay)
        return EquivalentGradientAdamW(
            groups, pairs=find_factor_pairs(model), damping=self.damping, lr=lr, **self.moments
        )
