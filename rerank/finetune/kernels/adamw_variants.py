"""AdamW on factor pairs B A of low-rank adapters (LoRA-FA, LoRA-Pro), and on a fraction of the weights (SaRA).

Let W + s B A be the adapted matrix with A (r x n) and B (m x r), and g (m x n) its gradient. Automatic differentiation
gives dA = s B' g and dB = s g A'. `lora_fa_gradient` and `lora_pro_gradients` replace them without computing g.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rerank.errors import UsageError
from rerank.finetune.kernels.adamw import ExactAdamW, ExactStateOptimizer, State, call_closure, step_adamw, widen

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FactorPair:
    """The two low-rank factors that an adapter adds to one matrix."""

    a: nn.Parameter  #: Factor A, shape (r, n).
    b: nn.Parameter  #: Factor B, shape (m, r).
    scale: float  #: Scaling factor s in W + s B A.


def find_factor_pairs(model: nn.Module) -> list[FactorPair]:
    """Return the factor pairs of all LoRA layers with a trainable factor, without factors that are computed."""
    pairs = []
    for module in model.modules():
        scaling = getattr(module, "scaling", None)
        for name, scale in scaling.items() if isinstance(scaling, Mapping) else ():
            a, b = _factor(module, "lora_A", name), _factor(module, "lora_B", name)
            if a is not None and b is not None and (a.requires_grad or b.requires_grad):
                pairs.append(FactorPair(a, b, float(scale)))
    if not pairs:
        raise UsageError(
            "The model has no trainable pair of factors lora_A and lora_B",
            expected="an adapter with factor pairs",
            remedy="Attach an adapter such as lora, or use another optimizer, such as adamw",
        )
    return pairs


def _factor(module: nn.Module, factor: str, name: str) -> nn.Parameter | None:
    layers = getattr(module, factor, None)
    layer = layers[name] if isinstance(layers, nn.ModuleDict) and name in layers else None
    weight = dict(layer.named_parameters(recurse=False)).get("weight") if layer is not None else None
    return weight if weight is not None and weight.ndim == 2 else None


class LoraFaAdamW(ExactAdamW):
    """AdamW on `lora_fa_gradient` of the factor B of each pair, and on the original gradients of other parameters."""

    def __init__(self, params: Any, *, pairs: list[FactorPair], damping: float, **options: Any) -> None:
        super().__init__(params, **options)
        self._pairs, self._damping = pairs, damping

    def adjusted_gradients(self) -> Mapping[Tensor, Tensor]:
        pairs = [pair for pair in self._pairs if pair.b.grad is not None]
        return {pair.b: lora_fa_gradient(pair, widen(cast(Tensor, pair.b.grad)), self._damping) for pair in pairs}


def lora_fa_gradient(pair: FactorPair, db: Tensor, damping: float) -> Tensor:
    """Return the gradient for B with a frozen A: gB = dB (A A')^-1 / s^2 minimises ||s gB A - g||."""
    # The least-squares solution of s gB A = g is gB = g A' (A A')^-1 / s, and g A' = dB / s.
    aa = _damped_gram(widen(pair.a), damping)
    return torch.linalg.solve(aa, db.T.to(aa.dtype)).T.to(db.dtype) / pair.scale**2


def lora_pro_gradients(pair: FactorPair, da: Tensor, db: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Return gA and gB of LoRA-Pro, for which s (B gA + gB A) is as close as possible to g; inputs at least float32.

    Among all such pairs of gradients, gA and gB are the closest to dA and dB.

        gA = (B'B)^-1 dA / s^2 + X A
        gB = (I - B (B'B)^-1 B') dB (A A')^-1 / s^2 - B X
        B'B X + X A A' = -(B'B)^-1 dA A' / s^2

    While B = 0, gA = dA = 0.
    """
    dtype = da.dtype
    aa, bb = _damped_gram(widen(pair.a), damping), _damped_gram(widen(pair.b).T, damping)
    a, b, da, db = (x.to(aa.dtype) for x in (pair.a, pair.b, da, db))
    # A A' and B'B (r x r) are symmetric. In the bases of their eigenvectors, the Sylvester equation for X is solved
    # by one division per entry: X_ij = right_ij / (eigenvalue_i of B'B + eigenvalue_j of A A').
    (values_aa, vectors_aa), (values_bb, vectors_bb) = torch.linalg.eigh(aa), torch.linalg.eigh(bb)
    inverse_aa = (vectors_aa / values_aa) @ vectors_aa.T
    inverse_bb = (vectors_bb / values_bb) @ vectors_bb.T
    right = -(inverse_bb @ da @ a.T) / pair.scale**2
    sums = values_bb[:, None] + values_aa[None, :]
    x = vectors_bb @ ((vectors_bb.T @ right @ vectors_aa) / sums) @ vectors_aa.T
    # (I - B (B'B)^-1 B') dB is the part of dB outside the column space of B; no m x m matrix is needed.
    outside = db - b @ (inverse_bb @ (b.T @ db))
    # gA (r, n) and gB (m, r) as in the docstring, with the solution X from above.
    new_a = inverse_bb @ da / pair.scale**2 + x @ a
    new_b = outside @ inverse_aa / pair.scale**2 - b @ x
    return new_a.to(dtype), new_b.to(dtype)


def _damped_gram(rows: Tensor, damping: float) -> Tensor:
    """Return X X' + damping I, shape (r, r), for X of shape (r, n); float64 where the device supports it.

    The Gram matrix squares the condition number of X, so that float32 would not be enough for its inverse.
    """
    accurate = rows if rows.device.type == "mps" else rows.double()
    return accurate @ accurate.T + damping * torch.eye(len(rows), device=rows.device, dtype=accurate.dtype)


class EquivalentGradientAdamW(ExactStateOptimizer):
    """AdamW whose moments are those of the equivalent gradients (m x n) of factor pairs; plain AdamW on other weights.

    A change of A by dt gA and of B by dt gB changes W + s B A by dt e, where e = s (B gA + gB A) is the equivalent
    gradient of the matrix. Each step of a pair is

        (gA, gB) <- adjusted dA, dB;  e = s (B gA + gB A)
        D = mean / (root of mean square + eps) of e           Adam's moments, m x n
        (gA, gB) <- adjusted s B' D, s D A'
        A <- A - lr gA - lr weight_decay A, and likewise for B

    The moments of a pair are kept in the state of its B. Both factors are in the same group. Source: LoRA-Pro, Wang et
    al., arXiv 2407.18242, section 2, and the authors' code.
    """

    def __init__(self, params: Any, *, pairs: list[FactorPair], damping: float, **options: Any) -> None:
        super().__init__(params, **options)
        self._pairs = {pair.b: pair for pair in pairs}
        self._damping = damping

    def load_state_dict(self, state_dict: State) -> None:
        """Load the result of `state_dict`; moments of single factors, which old checkpoints contain, are dropped."""
        super().load_state_dict(state_dict)
        outdated = [b for b, pair in self._pairs.items() if pair.a in self.state and b in self.state]
        for b in outdated:
            self.state.pop(b)
            self.state.pop(self._pairs[b].a)
        if outdated:
            logger.warning("The checkpoint of lora-pro contains unusable moments of single factors; moments start at 0")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every weight that has a gradient; a factor whose partner has no gradient is updated by plain AdamW."""
        loss = call_closure(closure)
        for group in self.param_groups:
            ready = {weight: weight.grad for weight in group["params"] if weight.grad is not None}
            for pair in [self._pairs[weight] for weight in ready if weight in self._pairs]:
                if pair.a in ready:
                    self._step_pair(pair, ready.pop(pair.a), ready.pop(pair.b), group)
            step_adamw(list(ready), list(ready.values()), [self.state[weight] for weight in ready], group)
        return loss

    def _step_pair(self, pair: FactorPair, da: Tensor, db: Tensor, group: State) -> None:
        a, b = widen(pair.a), widen(pair.b)
        new_a, new_b = lora_pro_gradients(pair, widen(da), widen(db), self._damping)
        equivalent = pair.scale * (b @ new_a + new_b @ a)  # (m, n)
        # A step of Adam from 0 with the learning rate -1 gives the direction D (m, n).
        direction = torch.zeros_like(equivalent)
        step_adamw([direction], [equivalent], [self.state[pair.b]], {**group, "lr": -1.0, "weight_decay": 0.0})
        da, db = pair.scale * b.T @ direction, pair.scale * direction @ a.T
        new_a, new_b = lora_pro_gradients(pair, da, db, self._damping)
        for weight, change in ((pair.a, new_a), (pair.b, new_b)):
            decayed = widen(weight) * (1 - group["lr"] * group["weight_decay"])
            weight.copy_(decayed - group["lr"] * change)


class SparseAdamW(ExactStateOptimizer):
    """AdamW that updates only a fraction of the entries of each parameter, and keeps moments only for these entries.

    The fraction ``share`` with the smallest absolute values is trained. After ``refine`` steps, entries that are no
    longer among the smallest are frozen; 0 for never.
    """

    def __init__(self, params: list[State], *, share: float, refine: int, **options: Any) -> None:
        super().__init__(params, **options)
        self.share = share
        self.refine = refine

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = call_closure(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                flat, state = weight.view(-1), self.state[weight]
                if not state:
                    count = math.ceil(self.share * flat.numel())
                    indices = flat.abs().topk(count, largest=False, sorted=False).indices.sort().values
                    state["entries"] = indices.to(torch.int32) if flat.numel() < 2**31 else indices
                elif self.refine and int(state["step"]) == self.refine:
                    _freeze_grown_entries(flat, state)
                entries = state["entries"].long()
                values = widen(flat[entries])
                step_adamw([values], [weight.grad.reshape(-1)[entries]], [state], group)
                flat[entries] = values.to(flat.dtype)
        return loss


def _freeze_grown_entries(flat: Tensor, state: State) -> None:
    """Keep only the trained entries, and their state, whose absolute value is below that of every untrained entry."""
    entries = state["entries"].long()
    is_untrained = torch.ones_like(flat, dtype=torch.bool)
    is_untrained[entries] = False
    if is_untrained.any():
        is_small = flat[entries].abs() < flat[is_untrained].abs().min()
        for key in ("entries", "exp_avg", "exp_avg_sq"):
            state[key] = state[key][is_small]
