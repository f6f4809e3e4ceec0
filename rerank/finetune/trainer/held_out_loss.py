"""The loss on lists that are held out of the training. Imports torch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from rerank.finetune.trainer.listwise_module import ListwiseModule
from rerank.finetune.trainer.scheduled_examples import ScheduledExamples


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """The training loss on held-out lists, with the current weights and without dropout or noise.

    Attributes:
        module: The module that is trained.
        examples: One example per list.
        device: Torch device.
        dtype: Data type of the computation.
    """

    module: ListwiseModule
    examples: ScheduledExamples
    device: str
    dtype: str

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the total loss as ``loss`` and each single loss as ``loss_NAME``, averaged over the lists."""
        values: defaultdict[str, list[float]] = defaultdict(list)
        was_training = self.module.training
        self.module.eval()
        try:
            for index in range(len(self.examples)):
                with torch.autocast(
                    self.device.partition(":")[0], dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"
                ):
                    out = self.module.example_loss(self.examples[index], self.device)
                values["loss"].append(float(out["loss"]))
                for name, value in out["parts"].items():
                    values[f"loss_{name}"].append(float(value))
        finally:
            self.module.train(was_training)
        return {name: sum(parts) / len(parts) for name, parts in values.items()}
