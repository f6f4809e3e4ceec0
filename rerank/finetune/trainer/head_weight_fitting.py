"""Fitting of head weights on the untrained model. Imports torch.

The attention of each head is computed once, and the weights are fitted to it, which is cheap. The training of the model
starts from these weights: most of the relevance signal is in a few heads, which the learning rate of an adapter would
find slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rerank.finetune.trainer.examples import TrainingExample
from rerank.finetune.trainer.listwise_module import STEEPNESS, ListwiseModule

#: Number of steps, learning rate, and L2 penalty of the fit.
_STEPS, _RATE, _DECAY = 400, 0.05, 1e-3


def fit_head_weights(module: ListwiseModule, observed: Sequence[tuple[torch.Tensor, TrainingExample]]) -> None:
    """Fit the head weights and the length exponent to the losses on attention; nothing else changes.

    Args:
        module: The module before training.
        observed: Per list, (heads, documents) attention of the untrained model, and the example.
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
