"""A callback that lets a few layers train at a time. Knows modules and the trainer's events, not where odds come from.

Layers are frozen once the optimizer has all of their parameters: what it does not get when it is made it never gets. A
layer that is frozen again loses its gradients and its state in the optimizer: that is what saves memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainerCallback

from rerank.errors import UsageError


def blocks(model: nn.Module) -> nn.ModuleList:
    """The model's layers: of its lists of modules the one with most parameters, the outermost of equals.

    Raises:
        UsageError: It has no list of modules.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UsageError(
            f"A {type(model).__name__} has no list of layers",
            expected="a transformer with its layers in a ModuleList",
            remedy="Train without sampling layers",
        )
    return max(lists, key=lambda one: sum(weight.numel() for weight in one.parameters()))


def draw(odds: Sequence[float], n: int, seed: int, interval: int) -> list[int]:
    """``n`` layers without replacement, in rising order; the same for the same arguments.

    Args:
        odds: Of each layer, at least 0; only their ratios count. With all at 0 all are alike.
        n: How many, at most ``len(odds)``.
        seed: The training's.
        interval: Which draw it is, from 0.
    """
    # The floor lets a layer of odds 0 be drawn where too few others are left.
    weights = np.maximum(odds, 1e-12)
    chance = np.random.default_rng((seed, interval))
    found = chance.choice(len(weights), size=n, replace=False, p=weights / weights.sum())
    return sorted(int(at) for at in found)


class SampleLayers(TrainerCallback):
    """Lets ``n`` layers train, others every so many steps; what is drawn depends on seed and step alone.

    Training that is resumed within an interval draws that interval's layers again. For one process: a model that
    DistributedDataParallel wraps does not expect its parameters to freeze.

    Args:
        model: What trains. Of its parameters only those that ask for gradients now are ever touched.
        n: How many layers train at a time.
        every: Optimizer steps until others are drawn.
        odds: Of each layer; none for equal ones.
        train_rest: Whether what is in no layer (embeddings, head, last norm) trains, and all the time.
        seed: For the draws.

    Raises:
        UsageError: The model has fewer layers, or no list of them.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        n: int,
        every: int,
        train_rest: bool,
        seed: int,
        odds: Sequence[float] = (),
    ) -> None:
        found = blocks(model)
        if n > len(found):
            raise UsageError(
                f"{n} layers at a time were asked for, and the model has {len(found)}",
                expected=f"a number from 1 to {len(found)}",
            )
        self.layers = [[weight for weight in layer.parameters() if weight.requires_grad] for layer in found]
        inside = {weight for layer in self.layers for weight in layer}
        self.rest = [weight for weight in model.parameters() if weight.requires_grad and weight not in inside]
        self.odds = list(odds) or [1.0] * len(found)
        self.n = n
        self.every = every
        self.train_rest = train_rest
        self.seed = seed

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Draw for the interval in which the training stands, at its start or not.

        Raises:
            UsageError: The optimizer lacks parameters of layers.
        """
        optimizer = given["optimizer"]
        held = {weight for group in optimizer.param_groups for weight in group["params"]}
        lacking = sum(weight not in held for layer in self.layers for weight in layer)
        if lacking:
            raise UsageError(
                f"The optimizer lacks {lacking} parameters of layers that are to train",
                expected="an optimizer over all of them",
                remedy="Build it before anything is frozen",
            )
        _ask(self.rest, self.train_rest, optimizer)
        self._let_train(state.global_step, optimizer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Draw others where a new interval begins."""
        if state.global_step % self.every == 0:
            self._let_train(state.global_step, given["optimizer"])

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Let everything ask for gradients again, as before."""
        for weight in (*self.rest, *(weight for layer in self.layers for weight in layer)):
            weight.requires_grad_(True)

    def active(self, step: int) -> list[int]:
        """Which layers train in optimizer step ``step``, from 0."""
        return draw(self.odds, self.n, self.seed, step // self.every)

    def _let_train(self, step: int, optimizer: Any) -> None:
        active = self.active(step)
        for at, layer in enumerate(self.layers):
            _ask(layer, at in active, optimizer)


def _ask(weights: Iterable[nn.Parameter], trains: bool, optimizer: Any) -> None:
    """Freeze weights and forget all about them, or let them train."""
    for weight in weights:
        weight.requires_grad_(trains)
        if not trains:
            weight.grad = None
            optimizer.state.pop(weight, None)
