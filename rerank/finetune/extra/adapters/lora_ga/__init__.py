"""The adapter LoRA-GA: LoRA initialised from the gradient of the training loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.targets import require_adapter_option_at_least, require_ranks_fit
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.extra.adapters.base.residual_base import ResidualBaseLora


@dataclass(frozen=True, kw_only=True)
class LoraGa(ResidualBaseLora):
    """LoRA initialised with singular vectors of the gradient G = U S V' of the training loss.

    A0 consists of the first r rows of V', and B0 of columns r + 1 to 2 r of U, both multiplied by rows^(1/4) /
    sqrt(gamma); singular values are not used. alpha / r B0 A0 is subtracted from the base weight, so that the outputs
    of the model do not change. The adapter is saved as a plain LoRA of rank 2 r, which is valid for the unmodified base
    weights.

    This package computes the initialisation itself, by the authors' formula: peft multiplies B0 by the singular values
    of G and does not scale A0.

    A matrix that the loss does not depend on has no gradient; it is initialised as in LoRA.

    Attributes:
        gamma: Stability constant; larger values make the initial factors smaller.
    """

    gamma: int = 16

    paper: ClassVar[str] = "Wang et al., NeurIPS 2024, arXiv 2407.05000 (LoRA-GA)"
    summary: ClassVar[str] = "LoRA initialised from the gradient of the loss"

    def __post_init__(self) -> None:
        """Check that ``gamma`` is at least 1, and check the options of LoRA."""
        super().__post_init__()
        require_adapter_option_at_least("gamma", self.gamma, 1)

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model with LoRA layers initialised from the mean gradient over the calibration batches."""
        from rerank.finetune.extra.adapters.base.gradients import compute_mean_loss_gradients
        from rerank.finetune.extra.adapters.lora_ga.gradient_start import start_lora_along_gradients

        ranks = self.ranks(model)
        # A0 takes the first r singular directions of the gradient, B0 the next r.
        require_ranks_fit("2 r", {name: 2 * rank for name, rank in ranks.items()}, self.shapes(model))
        gradients = compute_mean_loss_gradients(model, list(ranks), calibrate)
        wrapped = super().attach(model, calibrate, seed=seed)
        start_lora_along_gradients(wrapped, gradients, self.gamma)
        return wrapped
