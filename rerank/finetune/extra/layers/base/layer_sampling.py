"""A trainer callback that saves memory by training only a few layers of the model at a time.

The optimizer is created with the parameters of all layers, since parameters cannot be added later; layers are frozen
afterwards. A layer that is frozen loses its gradients and its optimizer state, which saves memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainerCallback

from rerank.errors import UsageError


def find_sampled_layers(model: nn.Module) -> nn.ModuleList:
    """Return the layers of a model: the module list with the most parameters; among ties, the outermost list.

    Raises:
        UsageError: The model has no module list.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UsageError(
            f"The model, a {type(model).__name__}, has no list of layers",
            expected="a transformer with its layers in a ModuleList",
            remedy="Train without layer sampling",
        )
    return max(lists, key=lambda layers: sum(weight.numel() for weight in layers.parameters()))


def draw_trained_layers(odds: Sequence[float], n: int, seed: int, interval: int) -> list[int]:
    """Draw ``n`` layers without replacement, and return their indices in ascending order.

    Args:
        odds: Odds per layer, at least 0; only their ratios matter. If all are 0, layers have equal odds.
        n: Number of layers to draw, at most ``len(odds)``.
        seed: Seed of the training.
        interval: Index of the draw, from 0. The result depends only on the arguments.
    """
    # With the lower bound, layers with odds 0 can be drawn if fewer than n other layers exist.
    weights = np.maximum(odds, 1e-12)
    generator = np.random.default_rng((seed, interval))
    indices = generator.choice(len(weights), size=n, replace=False, p=weights / weights.sum())
    return sorted(int(index) for index in indices)


class LayerSamplingCallback(TrainerCallback):
    """Callback that trains ``n`` layers at a time and draws new layers every ``every`` steps.

    The draws depend only on seed and step, so training that is resumed within an interval draws the layers of that
    interval again, and several processes draw the same layers.

    Args:
        model: The model to train. Only parameters that are trainable now are ever modified.
        n: Number of layers that are trained at a time.
        every: Number of optimizer steps until new layers are drawn.
        odds: Odds per layer; empty for equal odds.
        train_rest: Train the parameters outside of layers (embeddings, head, last norm) in every step.
        seed: Seed of the draws.

    Raises:
        UsageError: The model has fewer than ``n`` layers, or no list of layers.
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
        layers = find_sampled_layers(model)
        if n > len(layers):
            raise UsageError(
                f"n is {n}, but the model has only {len(layers)} layers",
                expected=f"a number from 1 to {len(layers)}",
            )
        self.layers = [[weight for weight in layer.parameters() if weight.requires_grad] for layer in layers]
        inside = {weight for layer in self.layers for weight in layer}
        self.rest = [weight for weight in model.parameters() if weight.requires_grad and weight not in inside]
        self.odds = list(odds) or [1.0] * len(layers)
        self.n = n
        self.every = every
        self.train_rest = train_rest
        self.seed = seed

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the layers to train in the current interval, when training starts or is resumed.

        Raises:
            UsageError: The optimizer does not contain the parameters of some layers.
        """
        optimizer = kwargs["optimizer"]
        known = {weight for group in optimizer.param_groups for weight in group["params"]}
        missing = sum(weight not in known for layer in self.layers for weight in layer)
        if missing:
            raise UsageError(
                f"The optimizer does not contain {missing} parameters of layers that are to be trained",
                expected="an optimizer over the parameters of all layers",
                remedy="Build the optimizer before layers are frozen",
            )
        _set_layer_trainable(self.rest, self.train_rest, optimizer)
        self._activate_layers(state.global_step, optimizer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw new layers to train at the beginning of each interval of ``every`` steps."""
        if state.global_step % self.every == 0:
            self._activate_layers(state.global_step, kwargs["optimizer"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make all parameters trainable again that were trainable before training."""
        for weight in (*self.rest, *(weight for layer in self.layers for weight in layer)):
            weight.requires_grad_(True)

    def active(self, step: int) -> list[int]:
        """Return the indices (from 0) of the layers that are trained in optimizer step ``step`` (from 0)."""
        return draw_trained_layers(self.odds, self.n, self.seed, step // self.every)

    def _activate_layers(self, step: int, optimizer: Any) -> None:
        active = self.active(step)
        for index, layer in enumerate(self.layers):
            _set_layer_trainable(layer, index in active, optimizer)


def _set_layer_trainable(weights: Iterable[nn.Parameter], is_trainable: bool, optimizer: Any) -> None:
    """Make weights trainable, or freeze them and drop their gradients and optimizer state."""
    for weight in weights:
        weight.requires_grad_(is_trainable)
        if not is_trainable:
            weight.grad = None
            optimizer.state.pop(weight, None)
