"""The first batches of a training, with its loss, for components that are initialised from data. Imports torch.

Head weights are fitted on the attention of each head of the untrained model, which is computed once. The training of
the model starts from these weights: most of the relevance signal is in a few heads, and training with the learning rate
of an adapter would find these heads only slowly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rerank.finetune.trainer.examples import TrainingExample
from rerank.finetune.trainer.listwise_module import STEEPNESS, ListwiseModule, autocast, collate_examples
from rerank.finetune.trainer.schedule import ScheduledExamples

#: Number of steps, learning rate, and L2 penalty for fitting the head weights.
_STEPS, _RATE, _DECAY = 400, 0.05, 1e-3


@dataclass(frozen=True, kw_only=True)
class FirstBatches:
    """Calibration batches (`rerank.finetune.components.CalibrationBatches`): the first batches of a training."""

    places: ScheduledExamples  #: Examples in training order.
    size: int  #: Number of lists per batch.
    #: Function that combines a model with the losses of the recipe into a `ListwiseModule`.
    module: Callable[[Any], ListwiseModule]
    device: str
    dtype: str
    first_lr: float  #: Learning rate of the first optimizer step.
    count: int = 8  #: Maximum number of batches.

    def forward(self, model: Any, lists: int | None = None) -> None:
        module = self.module(model)
        with torch.no_grad():
            for batch in self._batches(lists):
                with autocast(self.device, self.dtype):
                    module(**batch)

    def backward(self, model: Any, lists: int | None = None) -> None:
        """Add the gradient of the mean loss to ``.grad`` of all parameters except the head weights."""
        module, batches = self.module(model), self._batches(lists)
        for batch in batches:
            with autocast(self.device, self.dtype):
                loss = module(**batch)["loss"]
            (loss / len(batches)).backward()
        if module.readout is not None:
            module.readout.zero_grad()

    def fit(self, module: ListwiseModule) -> None:
        observed: list[Any] = []
        with torch.no_grad(), autocast(self.device, self.dtype):
            for batch in self._batches():
                observed += zip(module.attention_shares(**batch), batch["examples"], strict=True)
        fit_head_weights(module, observed)

    def _batches(self, lists: int | None = None) -> list[dict[str, Any]]:
        asked = self.count if lists is None else math.ceil(lists / self.size)
        starts = range(0, min(asked, max(1, len(self.places) // self.size)) * self.size, self.size)
        batches = [collate_examples([self.places[start + offset] for offset in range(self.size)]) for start in starts]
        return [
            {key: value.to(self.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
            for batch in batches
        ]


def fit_head_weights(module: ListwiseModule, observed: Sequence[tuple[torch.Tensor, TrainingExample]]) -> None:
    """Fit the head weights and the length exponent by minimising the losses on attention, if there are any.

    ``observed`` has for each list the attention of the untrained model, shape (heads, documents), and the example.
    """
    readout = module.readout
    losses = [term for term in module.losses if term.loss.of == "scores" and term.source != "logits"]
    if readout is None or not losses:
        return
    learnt = readout.logits.requires_grad
    readout.requires_grad_(True)
    # The parameter is STEEPNESS times smaller than the logits of the softmax, so its learning rate is too.
    groups = [{"params": [readout.logits], "lr": _RATE / STEEPNESS}, {"params": [readout.power], "lr": _RATE}]
    optimizer = torch.optim.Adam(groups)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = _DECAY * (STEEPNESS * readout.logits).square().mean()
        for attention, example in observed:
            for term in losses:
                loss = loss + term.weight * module.attention_loss(term, attention, example) / len(observed)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    readout.requires_grad_(learnt)
