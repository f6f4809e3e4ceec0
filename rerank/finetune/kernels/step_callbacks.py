"""Trainer callbacks that act between optimizer steps: layer sampling, and balancing of the factors of an adapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from rerank.errors import UsageError
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.kernels.adamw import widen
from rerank.finetune.kernels.adamw_variants import FactorPair

if TYPE_CHECKING:
    from rerank.finetune.extra.layers import Lisa


def find_layers(model: nn.Module) -> nn.ModuleList:
    """Return the layers of a model: the module list with the most parameters; among ties, the outermost list."""
    if not (lists := [module for module in model.modules() if isinstance(module, nn.ModuleList)]):
        raise UsageError(
            f"The model, a {type(model).__name__}, has no list of layers",
            expected="a transformer with its layers in a ModuleList",
            remedy="Train without layer sampling",
        )
    return max(lists, key=lambda layers: sum(weight.numel() for weight in layers.parameters()))


def draw_layers(odds: Sequence[float], n: int, seed: int, interval: int) -> list[int]:
    """Draw ``n`` layers without replacement, and return their indices in ascending order.

    Only the ratios of the ``odds`` per layer (at least 0) matter; if all are 0, layers have equal odds. ``interval`` is
    the index of the draw, from 0. The result depends only on the arguments.
    """
    # With the lower bound, layers with odds 0 can be drawn if fewer than n other layers exist.
    weights = np.maximum(odds, 1e-12)
    generator = np.random.default_rng((seed, interval))
    indices = generator.choice(len(weights), size=n, replace=False, p=weights / weights.sum())
    return sorted(int(index) for index in indices)


class LayerSamplingCallback(TrainerCallback):
    """Callback that trains ``n`` layers at a time and draws new layers every ``every`` steps, which saves memory.

    The optimizer is created with the parameters of all layers, since parameters cannot be added later. A layer that is
    frozen loses its gradients and its optimizer state. The draws depend only on seed and step, so resumed training and
    several processes draw the same layers.

    Only parameters that are trainable now are modified. ``odds`` are per layer; empty for equal odds.
    """

    def __init__(self, model: nn.Module, options: Lisa, *, odds: Sequence[float], seed: int) -> None:
        layers = find_layers(model)
        if options.n > len(layers):
            raise UsageError(
                f"n is {options.n}, but the model has only {len(layers)} layers",
                expected=f"a number from 1 to {len(layers)}",
            )
        self.layers = [[weight for weight in layer.parameters() if weight.requires_grad] for layer in layers]
        inside = {weight for layer in self.layers for weight in layer}
        self.rest = [weight for weight in model.parameters() if weight.requires_grad and weight not in inside]
        self.odds = list(odds) or [1.0] * len(layers)
        self.options = options
        self.seed = seed

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        known = {weight for group in optimizer.param_groups for weight in group["params"]}
        if missing := sum(weight not in known for layer in self.layers for weight in layer):
            raise UsageError(
                f"The optimizer does not contain {missing} parameters of layers that are to be trained",
                expected="an optimizer over the parameters of all layers",
                remedy="Build the optimizer before layers are frozen",
            )
        _set_trainable(self.rest, self.options.train_rest, optimizer)
        self._activate(state.global_step, optimizer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.options.every == 0:
            self._activate(state.global_step, kwargs["optimizer"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for weight in (*self.rest, *(weight for layer in self.layers for weight in layer)):
            weight.requires_grad_(True)

    def active(self, step: int) -> list[int]:
        return draw_layers(self.odds, self.options.n, self.seed, step // self.options.every)

    def _activate(self, step: int, optimizer: Any) -> None:
        active = self.active(step)
        for index, layer in enumerate(self.layers):
            _set_trainable(layer, index in active, optimizer)


def _set_trainable(weights: Iterable[nn.Parameter], is_trainable: bool, optimizer: Any) -> None:
    for weight in weights:
        weight.requires_grad_(is_trainable)
        if not is_trainable:
            weight.grad = None
            optimizer.state.pop(weight, None)


def outlier_shares(
    model: nn.Module, layers: Iterable[nn.Module], calibrate: CalibrationBatches, over: float
) -> list[float]:
    """Return the fraction of outliers in each layer, averaged over its linear modules.

    Entry (i, j) of W is an outlier if ``A_ij = |W_ij| |X_j|`` exceeds ``over`` times the mean of A, where ``|X_j|`` is
    the norm of input j over all tokens. Source: Yin et al., arXiv 2310.05175 (OWL), section 3.2, as used in OwLore.
    """
    linears_per_layer = [[module for module in layer.modules() if isinstance(module, nn.Linear)] for layer in layers]
    squares: dict[nn.Module, Tensor] = {}  # module -> (columns,): sum of squares of each input over all tokens

    def add_squares(module: nn.Module, args: tuple[Any, ...]) -> None:
        batch = args[0].detach().float().flatten(0, -2).square().sum(dim=0)
        squares[module] = squares[module] + batch if module in squares else batch

    hooks = [module.register_forward_pre_hook(add_squares) for linears in linears_per_layer for module in linears]
    try:
        calibrate.forward(model)
    finally:
        for hook in hooks:
            hook.remove()
    shares = []
    for index, linears in enumerate(linears_per_layer):
        fractions = []
        for linear in linears:
            if linear in squares:
                # A_ij = |W_ij| |X_j|, shape (rows, columns)
                scores = linear.weight.detach().float().abs() * squares[linear].sqrt()
                fractions.append(float((scores > over * scores.mean()).float().mean()))
        if not fractions:
            raise UsageError(
                f"No linear module of layer {index} received an input",
                expected="layers that consist of torch.nn.Linear modules",
                remedy="Use lisa, which needs no outlier fractions",
            )
        shares.append(sum(fractions) / len(fractions))
    return shares


def balance_factors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return factors (A, B) with the same product B A and equal singular values; None if the product lacks full rank.

    With B = Q_b R_b and A' = Q_a R_a, B A = Q_b (U S V') Q_a', where U S V' is the SVD of R_b R_a'. The new factors are
    B = Q_b U sqrt(S) and A = sqrt(S) V' Q_a'. If a singular value were 0, both factors would be 0 in that direction,
    and no gradient could change them any more. A has the shape (r, n) and B the shape (m, r).
    """
    if len(a) > min(a.shape[1], b.shape[0]):
        return None
    # Shapes: q_b (m, r), q_a (n, r), and all others (r, r): only the SVD of a small matrix is computed.
    (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T)
    if values[-1] <= torch.finfo(values.dtype).eps * values[0]:
        return None
    root = values.sqrt()
    return (root[:, None] * right) @ q_a.T, q_b @ (left * root)


class RefactorizationCallback(TrainerCallback):
    """Callback that balances all factor pairs and resets their moments every N steps, but not after the last."""

    def __init__(self, pairs: list[FactorPair], *, every: int) -> None:
        self.pairs = pairs
        self.every = every

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every or state.global_step >= state.max_steps:
            return
        for pair in self.pairs:
            if (factors := balance_factors(widen(pair.a), widen(pair.b))) is not None:
                pair.a.copy_(factors[0])
                pair.b.copy_(factors[1])
                for factor in (pair.a, pair.b):
                    kwargs["optimizer"].state.pop(factor, None)
