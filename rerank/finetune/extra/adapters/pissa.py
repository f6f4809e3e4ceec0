"""The adapter PiSSA: LoRA initialised with the largest singular directions of the weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.targets import require_adapter_option_at_least, require_ranks_fit
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.extra.adapters.base.residual_base import ResidualBaseLora


@dataclass(frozen=True, kw_only=True)
class Pissa(ResidualBaseLora):
    """PiSSA: LoRA that starts from the r largest singular directions of W: B0 = U sqrt(S), A0 = sqrt(S) V'.

    U S V' is the truncated SVD of W; the residual W - B0 A0 stays in the base model (equations 2 to 4 of the paper,
    which exchanges the names A and B). Implemented with `peft.LoraConfig`. The adapter is saved as a plain LoRA of rank
    2 r. If the base model is in 16 bits, the residual is rounded again, and the saved adapter does not correct this
    rounding error.

    Attributes:
        alpha: Numerator of the scaling factor alpha / r, as in LoRA; the default gives the factor 1.
        niter: Number of subspace iterations of a fast approximate SVD; 0 for the exact SVD.
    """

    alpha: int = 16
    niter: int = 0

    paper: ClassVar[str] = "Meng et al., NeurIPS 2024, arXiv 2404.02948 (PiSSA)"
    summary: ClassVar[str] = "LoRA initialised with the largest singular directions of each matrix"

    def __post_init__(self) -> None:
        """Check that ``niter`` is not negative, and check the options of LoRA."""
        super().__post_init__()
        require_adapter_option_at_least("niter", self.niter, 0)

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model with PiSSA's factors and the residual base weights."""
        require_ranks_fit("r", self.ranks(model), self.shapes(model))
        return super().attach(model, calibrate, seed=seed)

    def lora_options(self) -> dict[str, Any]:
        """Return the fields of `peft.LoraConfig` that select PiSSA's initialisation."""
        return {"init_lora_weights": f"pissa_niter_{self.niter}" if self.niter else "pissa"}
