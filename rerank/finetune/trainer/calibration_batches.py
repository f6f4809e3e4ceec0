"""The first batches of a training, under its loss, for parts that look before they train. Imports torch at its top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rerank.finetune.trainer.list_trainer import Places
from rerank.finetune.trainer.module import Listwise, collate
from rerank.finetune.trainer.readout import fit_readout


@dataclass(frozen=True, kw_only=True)
class Batches:
    """A `Calibrate` over the first batches.

    Attributes:
        places: Where they come from.
        size: Lists a batch.
        module: Puts a model under the training's loss.
        device: Where to compute.
        dtype: Number type of the arithmetic.
        count: How many batches are looked at, at most.
    """

    places: Places
    size: int
    module: Callable[[Any], Listwise]
    device: str
    dtype: str
    count: int = 8

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

    def fit(self, module: Listwise) -> None:
        """Fit how the module reads heads, on so many lists of the batches."""
        seen: list[Any] = []
        with torch.no_grad(), self._arithmetic():
            for batch in self._batches():
                seen += zip(module.shares(**batch), batch["examples"], strict=True)
        fit_readout(module, seen)

    def _batches(self) -> list[dict[str, Any]]:
        count = min(self.count, max(1, len(self.places) // self.size))
        made = [collate([self.places[at * self.size + n] for n in range(self.size)]) for at in range(count)]
        return [
            {key: value.to(self.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
            for batch in made
        ]

    def _loss(self, module: Listwise, batch: dict[str, Any]) -> Any:
        with self._arithmetic():
            return module(**batch)["loss"]

    def _arithmetic(self) -> torch.autocast:
        kind = self.device.partition(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")
