"""LoRA-GA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import MovedStart
from rerank.finetune.adapters.base.targets import fits
from rerank.finetune.parts import Calibrate


@dataclass(frozen=True, kw_only=True)
class LoraGa(MovedStart):
    """Begins with singular directions of the gradient G = U S V' of the training's own loss; `peft.LoraConfig`.

    A0 = the first r rows of V', B0 = columns r to 2 r of U; the base model is reduced by alpha / r B0 A0, so that the
    function does not change. Saved as a plain LoRA of rank 2 r, since peft's own file is right on the reduced base
    model alone.

    The beginning is that of peft 0.21, and differs in size from the authors': peft multiplies B0 by the gradient's
    singular values and by rows^(1/4) / sqrt(gamma), A0 by nothing, while the authors multiply both by the fourth root
    and neither by singular values. So the speed that the paper reports says nothing about this version.

    A matrix that takes no part in the loss has no gradient to begin along: it begins as in LoRA.

    Attributes:
        gamma: Larger begins smaller.
    """

    gamma: int = 16

    paper: ClassVar[str] = "Wang et al., NeurIPS 2024, arXiv 2407.05000 (LoRA-GA; the start is peft's)"
    summary: ClassVar[str] = "LoRA that begins along the gradient of the loss"

    def attach(self, model: Any, calibrate: Calibrate, *, seed: int) -> Any:
        """See `Adapter`.

        Raises:
            UsageError: A matrix has fewer than 2 r singular directions, or is quantised.
            BackendError: The loss depends on none of the matrices, or a gradient is not finite.
        """
        from rerank.finetune.adapters.base.gradients import gradients

        ranks = self.ranks(model)
        fits("2 r", {name: 2 * rank for name, rank in ranks.items()}, self.shapes(model))
        found = gradients(model, list(ranks), calibrate)
        # Where peft looks for it. `peft.preprocess_loraga` would divide what is a mean over batches already by their
        # number once more, and B0 with it.
        modules = {name: model.get_submodule(name) for name, gradient in found.items() if gradient.any()}
        try:
            for name, module in modules.items():
                module._peft_loraga_grad = found[name]
            return super().attach(model, calibrate, seed=seed)
        finally:
            for module in modules.values():
                vars(module).pop("_peft_loraga_grad", None)

    def options(self) -> dict[str, Any]:
        """See `LoraFamily`."""
        from peft import LoraGAConfig

        config = LoraGAConfig(direction="ArB2r", scale="stable", stable_gamma=self.gamma)
        return {"init_lora_weights": "lora_ga", "lora_ga_config": config}
