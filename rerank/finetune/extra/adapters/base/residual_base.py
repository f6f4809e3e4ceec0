"""Base class of LoRA variants whose low-rank product is not 0 at the start, and is subtracted from the base weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rerank.finetune.adapters.base.peft_methods import LoraFamily
from rerank.finetune.components import CalibrationBatches


@dataclass(frozen=True, kw_only=True)
class ResidualBaseLora(LoraFamily):
    """Base class of LoRA variants that start from a nonzero product s B0 A0 and subtract it from the base weights.

    With the scaling factor s, the base weight W becomes W - s B0 A0, so an adapter (B, A) would be valid only for that
    modified model. `save` therefore writes the learnt difference s (B A - B0 A0), which is valid for the unmodified
    model, as a LoRA of twice the rank with the factors [B, -B0] and [A; A0]. Each layer holds the initial factors in
    the buffers ``start_A`` and ``start_B``, so that they move to other devices together with the model.
    """

    moves_base: ClassVar[bool] = True

    def attach(self, model: Any, calibrate: CalibrationBatches, *, seed: int) -> Any:
        """Return the model with LoRA layers and a copy of their initial factors."""
        from rerank.finetune.adapters.base import peft_files

        wrapped = super().attach(model, calibrate, seed=seed)
        layers = dict(peft_files.iter_lora_layers(wrapped))
        for name, (b, a) in peft_files.read_adapter_factors(wrapped).items():
            layers[name].register_buffer("start_B", b.clone())
            layers[name].register_buffer("start_A", a.clone())
        return wrapped

    def save(self, model: Any, folder: Path) -> None:
        """Write the learnt difference s (B A - B0 A0) for the unmodified base model, as a LoRA of twice the rank."""
        import torch

        from rerank.finetune.adapters.base import peft_files

        layers = dict(peft_files.iter_lora_layers(model))
        # B A - B0 A0 = [B, -B0] [A; A0], with factors of shapes (rows, 2 r) and (2 r, columns).
        learnt = {
            name: (torch.cat([b, -layers[name].start_B], dim=1), torch.cat([a, layers[name].start_A]))
            for name, (b, a) in peft_files.read_adapter_factors(model).items()
        }
        peft_files.save_adapter_factors(model, learnt, folder, scaling=peft_files.read_trained_lora_scaling(model))
