"""Trainer callbacks that act between optimizer steps: layer sampling, balancing of factors, and AdaLoRA's ranks.

AdaLoRA's allocator comes from peft. This module stores its moving averages in the model, so that checkpoints contain
them, and derives its schedule from the trainer's number of optimizer steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from rerank.errors import UsageError
from rerank.finetune.components import CalibrationBatches
from rerank.finetune.kernels import peft_files
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
        _set_adalora_parameters(self.rest, self.options.train_rest, optimizer)
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
            _set_adalora_parameters(layer, index in active, optimizer)


def _set_adalora_parameters(weights: Iterable[nn.Parameter], is_trainable: bool, optimizer: Any) -> None:
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


#: Attributes of peft's allocator that hold moving averages per parameter: the importance, and the fluctuation of the
#: importance (equations 9 and 10 of arXiv 2303.10512).
_AVERAGES = ("exp_avg_ipt", "exp_avg_unc")


def register_importance(model: Any) -> None:
    """Register buffers for the moving averages of peft's rank allocator, so that checkpoints contain them."""
    for name, parameter in list(_adalora_parameters(model)):
        for kind in _AVERAGES:
            model.register_buffer(_buffer_name(kind, name), torch.zeros_like(parameter))


def _adalora_parameters(model: Any) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.base_model.model.named_parameters():
        if parameter.requires_grad and "lora_" in name and peft_files.ADAPTER in name:
            yield name, parameter


def _buffer_name(kind: str, name: str) -> str:
    return f"adalora_{kind}_{name.replace('.', '-')}"


class RankAllocationCallback(TrainerCallback):
    """Trainer callback that sets peft's pruning schedule and prunes terms after each optimizer step.

    ``tinit`` and ``tfinal`` are the fractions of steps before pruning starts and after ranks are fixed.
    """

    def __init__(self, model: Any, *, tinit: float, tfinal: float) -> None:
        self.model, self.tinit, self.tfinal = model, tinit, tfinal

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        config = self.model.peft_config[peft_files.ADAPTER]
        config.total_step = state.max_steps
        config.tinit = int(state.max_steps * self.tinit)
        config.tfinal = int(state.max_steps * self.tfinal)
        if state.global_step >= config.total_step - config.tfinal and not config.rank_pattern:
            # Training was resumed after the ranks had been fixed. Exactly the pruned terms are 0, so the rank pattern
            # can be read from the values.
            values = ((name, value) for name, value in _adalora_parameters(self.model) if "lora_E" in name)
            config.rank_pattern = {name: (value != 0).view(-1).tolist() for name, value in values}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Update the importance scores, then prune low-importance terms, while the step's gradients are available."""
        allocator, model = self.model.base_model.rankallocator, self.model
        for name, parameter in _adalora_parameters(model):
            for kind in _AVERAGES:
                getattr(allocator, kind)[name] = getattr(model, _buffer_name(kind, name))
            allocator.ipt.setdefault(name, torch.zeros_like(parameter))
            if parameter.grad is None:  # the loss does not depend on this matrix; peft would fail on a missing gradient
                parameter.grad = torch.zeros_like(parameter)
        # The trainer increments global_step after this event.
        model.base_model.update_and_allocate(state.global_step + 1)
        for name, _ in _adalora_parameters(model):
            for kind in _AVERAGES:
                average = getattr(allocator, kind).get(name)  # peft deletes it once ranks are fixed
                if average is not None:
                    getattr(model, _buffer_name(kind, name)).copy_(average)


def orthogonality_penalty(model: Any) -> torch.Tensor:
    """Return the mean over all P and Q of the Frobenius norms of P'P - I and QQ' - I.

    Source: arXiv 2303.10512, equation 4, without squares, as in the authors' code and in peft.
    """
    distances = []
    for _, layer in peft_files.iter_lora_layers(model):
        # P (rows, r) is peft's lora_B, and Q (r, columns) is its lora_A.
        for factor in (layer.lora_B[peft_files.ADAPTER].T, layer.lora_A[peft_files.ADAPTER]):
            identity = torch.eye(len(factor), device=factor.device, dtype=factor.dtype)
            distances.append(torch.linalg.matrix_norm(factor @ factor.T - identity))
    return torch.stack(distances).mean()


def fold_factors(model: Any) -> peft_files.Factors:
    """Return the factors (B, A) of a plain LoRA with scaling factor 1 that is equivalent to the model's AdaLoRA."""
    factors = {}
    for name, layer in peft_files.iter_lora_layers(model):
        b, a, e = (getattr(layer, key)[peft_files.ADAPTER].detach() for key in ("lora_B", "lora_A", "lora_E"))
        # B (rows, r), A (r, columns), e (r, 1): the update is scale B (e * A). peft adds the same 1e-5 to the rank.
        scale = layer.scaling[peft_files.ADAPTER] / (layer.ranknum[peft_files.ADAPTER].detach() + 1e-5)
        factors[name] = (b, a * e * scale)
    return factors
