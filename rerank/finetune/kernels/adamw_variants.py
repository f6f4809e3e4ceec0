"""AdamW on factor pairs of low-rank adapters, in a subspace, and on a fraction of the weights (SaRA).

Factor pairs (LoRA-FA, LoRA-Pro): let W + s B A be the adapted matrix with A (r x n) and B (m x r), and g (m x n) its
gradient. Automatic differentiation gives dA = s B' g and dB = s g A'. `lora_fa_gradient` and `lora_pro_gradients`
replace them without computing g.

Subspace (GaLore, Fira, Natural GaLore, DCT-AdamW, APOLLO): let G be the gradient of a matrix, transposed if necessary
so that it has at least as many rows as columns (m x n, m >= n):

    C = G P                                             P (n x r) spans the subspace; it changes every ``gap`` steps
    c = (F + damping I)^-1 C, or C                      F: outer products of the last ``history`` C, summed
    U = mean / (root of mean square + eps) of c         Adam's moments, both m x r
    W <- W - lr update - lr weight_decay W

    update = scale U P'                                   rest "drop"     GaLore, arXiv 2403.03507, algorithm 2
    update = scale U P' + limit(phi (G - scale C P'))     rest "add"      Fira, arXiv 2410.01623
    update = scale limit(phi G)                           rest "instead"  APOLLO, arXiv 2412.05270, algorithm 1
    phi = |U_i| / |C_i| for row i, or the ratio of the norms of the whole matrices
    limit: the norm before Adam's bias correction may be at most 1.01 times that norm in the previous step

As in the authors' code, Fira's scale multiplies both projections, and limits apply before the bias correction.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rerank.errors import UsageError
from rerank.finetune.kernels.adamw import ExactAdamW, ExactStateOptimizer, State, call_closure, step_adamw, widen

if TYPE_CHECKING:
    from rerank.finetune.optimizers import SubspaceOptions

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
    solution: Tensor = torch.linalg.solve(aa, db.T.to(aa.dtype)).T
    return solution.to(db.dtype) / pair.scale**2


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


#: Maximum growth factor of the norm of an update in one step: gamma in Fira and in APOLLO.
MAX_GROWTH = 1.01


def choose_basis(rule: SubspaceOptions, state: State, grad: Tensor, rank: int, place: int) -> None:
    """Choose the basis for a gradient (m x n) and store it in ``state``.

    ``svd`` stores the first r right singular vectors of the gradient (n x r). ``cosine`` stores the indices of the r
    columns q of the cosine transform with the largest ``|G q|``. When they change, the moments of columns that remain
    are kept, and the moments of new columns start at 0, which is the rotation R = Q_old' Q_new of arXiv 2505.17967.
    ``noise`` stores a seed; the first one depends on ``place``, the index of the matrix among all parameters.
    """
    if rule.basis == "svd":
        _, _, right_vectors = torch.linalg.svd(grad, full_matrices=False)  # (n, n), one vector per row
        state["basis"] = right_vectors[:rank].T.contiguous()
    elif rule.basis == "noise":
        # A parameter can draw 2^20 bases before it reaches the seeds of the next parameter.
        state["seed"] = state["seed"] + 1 if "seed" in state else rule.seed + (place << 20)
    else:
        width = grad.shape[1]
        transformed = grad @ dct_columns(width, torch.arange(width, device=grad.device), grad.dtype)
        columns = transformed.norm(dim=0).topk(rank).indices.sort().values
        if "columns" in state:
            # Q_old' Q_new (r x r) for orthonormal columns is 1 where a column remains and 0 elsewhere.
            rotation = (state["columns"][:, None] == columns[None, :]).to(grad.dtype)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = state[moment] @ rotation
        state["columns"] = columns


def basis_matrix(rule: SubspaceOptions, state: State, like: Tensor, rank: int) -> Tensor:
    """Return P of shape (n, r) for a gradient with the same shape (m, n) as ``like``."""
    if rule.basis == "svd":
        basis: Tensor = state["basis"]
        return basis
    if rule.basis == "cosine":
        return dct_columns(like.shape[1], state["columns"], like.dtype)
    # Gaussian noise with variance 1 / r, generated again from the stored seed whenever it is needed.
    generator = torch.Generator(like.device).manual_seed(state["seed"])
    shape = (like.shape[1], rank)
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype) / math.sqrt(rank)


def dct_columns(width: int, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """Return columns of the orthonormal DCT-II matrix, shape (width, len(columns)).

    Q_ij = sqrt(2 / width) cos(pi (2i + 1) j / (2 width)), with column 0 divided by sqrt(2). The angle is reduced below
    a full turn in integer arithmetic, since float32 does not represent large angles exactly.
    """
    # The angle is pi / (2 width) times an integer, which may be reduced modulo 4 width.
    turns = (2 * torch.arange(width, device=columns.device)[:, None] + 1) * columns[None, :] % (4 * width)
    values = torch.cos(turns.to(dtype) * (math.pi / (2 * width))) * math.sqrt(2 / width)
    return torch.where(columns == 0, values / math.sqrt(2), values)


def precondition_by_fisher(low: Tensor, history: Tensor, damping: float) -> Tensor:
    """Return (H'H + damping I)^-1 c by Woodbury's identity, where c is the flattened ``low`` (m x r).

    H (s x mr) is ``history``; rows of zeros have no effect. Source: Das, arXiv 2410.16029.
    """
    flat = low.flatten()
    # (H'H + d I)^-1 c = (c - H' (H H' + d I)^-1 H c) / d: a system of s equations instead of mr.
    inner = history @ history.T + damping * torch.eye(len(history), device=low.device, dtype=low.dtype)
    remainder = flat - history.T @ torch.linalg.solve(inner, history @ flat)
    preconditioned: Tensor = (remainder / damping).view_as(low)
    return preconditioned


class SubspaceAdamW(ExactStateOptimizer):
    """AdamW that saves memory by keeping the moments of matrices in a low-dimensional subspace.

    Groups whose key ``projected`` is False are updated by plain AdamW.
    """

    def __init__(self, params: list[State], *, rule: SubspaceOptions, **options: Any) -> None:
        super().__init__(params, **options)
        self.rule = rule
        weights = (weight for group in self.param_groups for weight in group["params"])
        self._place = {weight: index for index, weight in enumerate(weights)}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = call_closure(closure)
        for group in self.param_groups:
            ready = [weight for weight in group["params"] if weight.grad is not None]
            if not group["projected"]:
                step_adamw(ready, [weight.grad for weight in ready], [self.state[weight] for weight in ready], group)
                continue
            for weight in ready:
                is_transposed = weight.shape[0] < weight.shape[1]
                grad = widen(weight.grad.T if is_transposed else weight.grad)  # (m, n) with m >= n
                update = self._update(grad, self.state[weight], group, self._place[weight])
                wide_weight = widen(weight)
                wide_weight.mul_(1 - group["lr"] * group["weight_decay"])
                wide_weight.sub_(update.T if is_transposed else update, alpha=group["lr"])
                if wide_weight is not weight:
                    weight.copy_(wide_weight)
        return loss

    def _update(self, grad: Tensor, state: State, group: State, place: int) -> Tensor:
        rule, rank = self.rule, min(self.rule.rank, grad.shape[1])
        steps = int(state.get("step", 0))
        if steps % rule.gap == 0:
            choose_basis(rule, state, grad, rank, place)
            # Projected gradients of the previous subspace have other coordinates.
            state.pop("history", None)
        basis = basis_matrix(rule, state, grad, rank)  # P (n, r)
        low = adam_input = grad @ basis  # C = G P (m, r)
        if rule.history:
            if "history" not in state:
                state["history"] = low.new_zeros(rule.history, low.numel())  # the last s projected gradients (s x mr)
            state["history"][steps % rule.history] = low.flatten()
            adam_input = precondition_by_fisher(low, state["history"], rule.damping)
        # A step of Adam from 0 with the learning rate -1 gives U itself.
        direction = torch.zeros_like(low)
        step_adamw([direction], [adam_input], [state], {**group, "lr": -1.0, "weight_decay": 0.0})
        update: Tensor = rule.scale * direction @ basis.T  # (m, n)
        if rule.rest == "drop":
            return update
        # Bias correction multiplies U, and therefore phi, by the same number in every row.
        beta1, beta2 = group["betas"]
        correction = math.sqrt(1 - beta2 ** (steps + 1)) / (1 - beta1 ** (steps + 1))
        # phi: (1, 1) with norms of the whole matrices, otherwise (m, 1); 0 where Adam's input has norm 0.
        dimensions = (0, 1) if rule.tensorwise else (1,)
        after, before = (torch.linalg.vector_norm(x, dim=dimensions, keepdim=True) for x in (direction, low))
        phi = torch.where(before > 0, after / before, 0.0) / correction
        rest = grad if rule.rest == "instead" else grad - rule.scale * low @ basis.T
        limited: Tensor = correction * _limit_growth(phi * rest, state)
        return rule.scale * limited if rule.rest == "instead" else update + limited


def _limit_growth(update: Tensor, state: State) -> Tensor:
    """Return the update, shortened if its norm exceeds `MAX_GROWTH` times the previous norm in ``state``."""
    norm = torch.linalg.vector_norm(update)
    previous = state.get("norm", torch.zeros_like(norm))
    # After an update of 0 there is no limit, since otherwise all later updates would be 0 as well.
    largest = torch.where(previous > 0, MAX_GROWTH * previous, torch.inf)
    factor = (largest / norm).clamp(max=1.0)
    state["norm"] = norm * factor
    limited: Tensor = update * factor
    return limited
