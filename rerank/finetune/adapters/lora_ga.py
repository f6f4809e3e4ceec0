"""The adapter LoRA-GA: LoRA initialised from the gradient of the training loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import ResidualBaseLora
from rerank.finetune.adapters.base.targets import require_ranks_fit
from rerank.finetune.components import CalibrationBatches


@dataclass(frozen=True, kw_only=True)
class LoraGa(ResidualBaseLora):
    """LoRA initialised with singular vectors of the gradient G = U S V' of the training loss; `peft.LoraConfig`.

    A0 consists of the first r rows of V', and B0 of columns r + 1 to 2 r of U. alpha / r B0 A0 is subtracted from the
    base weight, so that the outputs of the model do not change. The adapter is saved as a plain LoRA of rank 2 r, since
    peft's own file is valid only for the modified base weights.

    The initialisation comes from peft 0.21, whose scale differs from the authors'. peft multiplies B0 by the singular
    values of the gradient and by rows^(1/4) / sqrt(gamma), and does not scale A0; the authors multiply both factors by
    rows^(1/4) / sqrt(gamma) and use no singular values. The speed-up reported in the paper therefore does not apply to
    this version.

    A matrix that the loss does not depend on has no gradient; it is initialised as in LoRA.

    Attributes:
        gamma: Stability constant; larger values make the initial factors smaller.
    """

    gamma: int = 16

    paper: ClassVar[str] = "Wang et al., NeurIPS 2024, arXiv 2407.05000 (LoRA-GA; peft's initialisation)"
    summary: ClassVar[str] = "LoRA initialised from the gradient of the loss"

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model with LoRA layers that are initialised from the mean gradient over the calibration batches.

        Raises:
            UsageError: A matrix has fewer than 2 r singular directions, or is quantised.
            BackendError: The loss depends on none of the matrices, or a gradient is not finite.
        """
        from rerank.finetune.adapters.base.gradients import compute_mean_loss_gradients

        ranks = self.ranks(model)
        # A0 takes the first r singular directions of the gradient, B0 the next r.
        require_ranks_fit("2 r", {name: 2 * rank for name, rank in ranks.items()}, self.shapes(model))
        gradients = compute_mean_loss_gradients(model, list(ranks), calibrate)
        # peft reads the gradient from the attribute _peft_loraga_grad. `peft.preprocess_loraga` is not used: it would
        # divide the mean over batches, and therefore B0, by the number of batches a second time.
        modules = {name: model.get_submodule(name) for name, gradient in gradients.items() if gradient.any()}
        try:
            for name, module in modules.items():
                module._peft_loraga_grad = gradients[name]
            return super().attach(model, calibrate, seed=seed)
        finally:
            for module in modules.values():
                vars(module).pop("_peft_loraga_grad", None)

    def lora_options(self) -> dict[str, Any]:
        """Return the fields that select LoRA-GA's initialisation."""
        from peft import LoraGAConfig

        config = LoraGAConfig(direction="ArB2r", scale="stable", stable_gamma=self.gamma)
        return {"init_lora_weights": "lora_ga", "lora_ga_config": config}
