"""PiSSA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import MovedStart
from rerank.finetune.adapters.base.targets import at_least, fits
from rerank.finetune.parts import Calibrate


@dataclass(frozen=True, kw_only=True)
class Pissa(MovedStart):
    """Trains the r largest singular directions of W = U S V': B0 = U sqrt(S), A0 = sqrt(S) V'; `peft.LoraConfig`.

    The rest stays in the base model. Saved as a plain LoRA of rank 2 r. In a base model of 16 bits the rest is rounded
    once more, which the saved adapter does not undo.

    Attributes:
        alpha: As in LoRA; by default the factor is 1.
        niter: Power iterations of a fast approximate decomposition; 0 for the exact one.
    """

    alpha: int = 16
    niter: int = 0

    paper: ClassVar[str] = "Meng et al., NeurIPS 2024, arXiv 2404.02948 (PiSSA)"
    summary: ClassVar[str] = "LoRA that begins with the largest singular directions of each matrix"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        at_least("niter", self.niter, 0)

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `Adapter`.

        Raises:
            UsageError: A matrix has fewer than r singular directions.
        """
        fits("r", self.ranks(model), self.shapes(model))
        return super().attach(model, calibrate, seed=seed)

    def options(self) -> dict[str, Any]:
        """See `LoraFamily`."""
        return {"init_lora_weights": f"pissa_niter_{self.niter}" if self.niter else "pissa"}
