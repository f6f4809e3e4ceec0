"""The first batches of a training, under its loss, for parts that look before they train. Imports torch at its top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rerank.finetune._module import Listwise, collate
from rerank.finetune._trainer import Places

#: How many batches are looked at.
_BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class Batches:
    """A `Calibrate` over the first batches.

    Attributes:
        places: Where they come from.
        size: Lists a batch.
        module: Puts a model under the training's loss.
        device: Where to compute.
        dtype: Number type of the arithmetic.
    """

    places: Places
    size: int
    module: Callable[[Any], Listwise]
    device: str
    dtype: str

    def forward(self, model: Any) -> None:
        """See `Calibrate`."""
        module = self.module(model)
        with torch.no_grad():
            for batch in self._batches():
                self._loss(module, batch)

    def backward(self, model: Any) -> None:
        """See `Calibrate`."""
        module, batches = self.module(model), self._batches()
        for batch in batches:
            (self._loss(module, batch) / len(batches)).backward()
        if module.readout is not None:
            module.readout.zero_grad()

    def _batches(self) -> list[dict[str, Any]]:
        count = min(_BATCHES, max(1, len(self.places) // self.size))
        made = [collate([self.places[at * self.size + n] for n in range(self.size)]) for at in range(count)]
        return [
            {key: value.to(self.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
            for batch in made
        ]

    def _loss(self, module: Listwise, batch: dict[str, Any]) -> Any:
        kind = self.device.partition(":")[0]
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"):
            return module(**batch)["loss"]
