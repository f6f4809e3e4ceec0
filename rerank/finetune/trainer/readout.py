"""Head weights fitted to a model as it is, before anything in it trains. Imports torch at its top.

What each head sees is read once; the weights are then fitted to that, which costs next to nothing. A model trains on
from there: most of what attention says of relevance is in a few heads, which the learning rate of an adapter finds
slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rerank.finetune.trainer.examples import Example
from rerank.finetune.trainer.module import STEEPNESS, Listwise

#: Steps of the fit, how far one goes, and how much large weights cost.
_STEPS, _RATE, _DECAY = 400, 0.05, 1e-3


def fit_readout(module: Listwise, seen: Sequence[tuple[torch.Tensor, Example]]) -> None:
    """Fit how a module reads heads to its losses on attention; nothing else changes.

    Args:
        module: The module, as it is before training.
        seen: Of each list, (heads, documents) attention, and the example.
    """
    readout = module.readout
    terms = [term for term in module.losses if term.loss.of == "scores" and term.source != "logits"]
    if readout is None or not terms:
        return
    learnt = readout.logits.requires_grad
    readout.requires_grad_(True)
    groups = [{"params": [readout.logits], "lr": _RATE / STEEPNESS}, {"params": [readout.power], "lr": _RATE}]
    optimizer = torch.optim.Adam(groups)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss = _DECAY * (STEEPNESS * readout.logits).square().mean()
        for shares, example in seen:
            for term in terms:
                loss = loss + term.weight * module.scored(term, shares, example) / len(seen)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    optimizer.zero_grad()
    readout.requires_grad_(learnt)
