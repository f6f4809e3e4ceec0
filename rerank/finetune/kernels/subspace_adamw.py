"""AdamW that keeps the moments of matrices in a subspace: GaLore, Fira, Natural GaLore, DCT-AdamW and APOLLO.

Let G be the gradient of a matrix, transposed if necessary so that it has at least as many rows as columns (m x n, m >=
n):

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

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rerank.finetune.kernels.adamw import ExactStateOptimizer, State, call_closure, step_adamw, widen

if TYPE_CHECKING:
    from rerank.finetune.optimizers import SubspaceOptions

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
