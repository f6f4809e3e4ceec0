"""The optimizer GaLore: Adam's moments of matrices in the subspace of the gradient's first singular vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import FULL, LORA
from rerank.finetune.optimizers.base.subspace_options import SubspaceOptions


@dataclass(frozen=True, kw_only=True)
class Galore(SubspaceOptions):
    """Adam on projected gradients of matrices, whose steps are projected back.

    It keeps r (2 long + short) numbers per matrix instead of 2 long short: 66 % fewer at r = 1024 in a 7B model. Each
    choice of the subspace costs a singular value decomposition of every gradient.

    With ``factors``, it projects the gradients of an adapter's factors instead, with a ``rank`` below that of the
    adapter; on the factors of `dora`, this is `gradnormlorp`.

    Attributes:
        factors: Train the factors of an adapter instead of the weights of the model.
    """

    paper: ClassVar[str] = "Zhao et al., ICML 2024, arXiv 2403.03507 (GaLore)"
    summary: ClassVar[str] = "Adam's moments of matrices in the leading singular subspace of their gradients"

    factors: bool = False

    @property
    def fits(self) -> frozenset[ParameterKind]:  # type: ignore[override]
        """The model's own weights; factor pairs with ``factors``."""
        return LORA if self.factors else FULL

    @property
    def reason(self) -> str:  # type: ignore[override]
        """Reason why it does not fit other kinds of parameters."""
        if self.factors:
            return "With factors=true it projects the gradients of lora_A and lora_B, which other adapters lack"
        return f"{SubspaceOptions.reason}; to project the gradients of their factors, set factors=true and a small rank"
