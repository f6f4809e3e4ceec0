"""The optimizer GaLore: Adam with moments in the subspace of the leading singular vectors of each gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.finetune.components import ParameterKind
from rerank.finetune.optimizers.base.options import FULL, LORA
from rerank.finetune.optimizers.base.subspace_options import SubspaceOptions


@dataclass(frozen=True, kw_only=True)
class Galore(SubspaceOptions):
    """Adam on projected gradients of matrices; the updates are projected back to the full matrices.

    GaLore keeps r (2 long + short) numbers per (long x short) matrix instead of 2 long short: 66 % fewer at r = 1024 in
    a 7B model. Each choice of the subspace costs a singular value decomposition of every gradient.

    With ``factors``, GaLore projects the gradients of an adapter's factors instead; ``rank`` should then be below the
    adapter's rank. For the factors of `dora`, this is the optimizer `gradnormlorp`.

    Attributes:
        factors: Train the factors of an adapter instead of the weights of the model.
    """

    paper: ClassVar[str] = "Zhao et al., ICML 2024, arXiv 2403.03507 (GaLore)"
    summary: ClassVar[str] = "Adam's moments of matrices in the leading singular subspace of their gradients"

    factors: bool = False

    @property
    def fits(self) -> frozenset[ParameterKind]:  # type: ignore[override]
        """What this optimizer can train: LoRA factors if ``factors`` is set, else the model's own weights."""
        return LORA if self.factors else FULL

    @property
    def reason(self) -> str:  # type: ignore[override]
        """Reason why the optimizer cannot train other kinds of parameters."""
        if self.factors:
            return "With factors=true it projects the gradients of lora_A and lora_B, which other adapters lack"
        return f"{SubspaceOptions.reason}. To project gradients of adapter factors, set factors=true and a small rank"
