"""AdamW that keeps the moments of matrices in a subspace: GaLore, Fira, Natural GaLore, DCT-AdamW and APOLLO in one.

With G the gradient of a matrix, turned so that it has at least as many rows as columns (m x n, m >= n):

    C = G P                                             P (n x r) spans the subspace, chosen anew every ``gap`` steps
    c = (F + damping I)^-1 C, or C                      F: the last ``history`` C, outer products summed
    U = mean / (root of mean square + eps) of c         Adam's moments, both m x r
    W <- W - lr scale update - lr weight_decay W

    update = U P'                                       rest "drop"     GaLore, arXiv 2403.03507, algorithm 2
    update = U P' + limit(phi (G - C P'))               rest "add"      Fira, arXiv 2410.01623
    update = limit(phi G)                               rest "instead"  APOLLO, arXiv 2412.05270, algorithm 1
    phi = |U_i| / |C_i| for row i, or of all rows at once
    limit: no norm above 1.01 times that of the step before

What is no matrix steps by plain AdamW. Knows tensors; which parameters are matrices, the groups say (``projected``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from rerank.finetune.optimizers.base.exact_adamw import Exact, State, advance, evaluate, wide
from rerank.finetune.optimizers.base.options import Rule

#: By how much the limiter lets a norm grow in one step: gamma in Fira and in APOLLO.
GROWTH = 1.01


class Basis(Protocol):
    """What spans the subspace; it lives in a matrix's state, as tensors and numbers."""

    def choose(self, state: State, grad: Tensor, rank: int, place: int) -> None:
        """Choose it for the gradient (m x n) of the parameter at ``place`` among all."""

    def matrix(self, state: State, like: Tensor, rank: int) -> Tensor:
        """P, (n x r), for a gradient ``like`` this (m x n)."""


class Singular:
    """The gradient's first right singular vectors, kept: n x r numbers."""

    def choose(self, state: State, grad: Tensor, rank: int, place: int) -> None:
        """See `Basis`."""
        _, _, rows = torch.linalg.svd(grad, full_matrices=False)
        state["basis"] = rows[:rank].T.contiguous()

    def matrix(self, state: State, like: Tensor, rank: int) -> Tensor:
        """See `Basis`."""
        basis: Tensor = state["basis"]
        return basis


class Cosines:
    """The columns q of the cosine transform with the largest ``|G q|``: r indices are all that is kept.

    Moments of columns that stay stay with them, and new columns begin at 0: R = Q_old' Q_new of arXiv 2505.17967.
    """

    def choose(self, state: State, grad: Tensor, rank: int, place: int) -> None:
        """See `Basis`."""
        width = grad.shape[1]
        strength = (grad @ cosines(width, torch.arange(width, device=grad.device), grad.dtype)).norm(dim=0)
        columns = strength.topk(rank).indices.sort().values
        if "columns" in state:
            stays = (state["columns"][:, None] == columns[None, :]).to(grad.dtype)
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = state[moment] @ stays
        state["columns"] = columns

    def matrix(self, state: State, like: Tensor, rank: int) -> Tensor:
        """See `Basis`."""
        return cosines(like.shape[1], state["columns"], like.dtype)


class Noise:
    """Gaussian of variance 1 / r, drawn anew from a seed whenever it is needed: one number is kept."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def choose(self, state: State, grad: Tensor, rank: int, place: int) -> None:
        """See `Basis`."""
        state["seed"] = state["seed"] + 1 if "seed" in state else self.seed + (place << 20)

    def matrix(self, state: State, like: Tensor, rank: int) -> Tensor:
        """See `Basis`."""
        chance = torch.Generator(like.device).manual_seed(state["seed"])
        shape = (like.shape[1], rank)
        return torch.randn(shape, generator=chance, device=like.device, dtype=like.dtype) / math.sqrt(rank)


def cosines(width: int, columns: Tensor, dtype: torch.dtype) -> Tensor:
    """(width x len(columns)) columns of the orthonormal DCT-II matrix.

    Q_ij = sqrt(2 / width) cos(pi (2i + 1) j / (2 width)), column 0 over sqrt(2). The angle is brought below a full
    turn in whole numbers first, for float32 holds no large angle exactly.
    """
    turns = (2 * torch.arange(width, device=columns.device)[:, None] + 1) * columns[None, :] % (4 * width)
    values = torch.cos(turns.to(dtype) * (math.pi / (2 * width))) * math.sqrt(2 / width)
    return torch.where(columns == 0, values / math.sqrt(2), values)


def natural(low: Tensor, history: Tensor, damping: float) -> Tensor:
    """(H'H + damping I)^-1 c by Woodbury's identity, H (s x mr) the rows of ``history``, c all of ``low`` (m x r).

    Rows of zeros change nothing. Source: Das, arXiv 2410.16029.
    """
    flat = low.flatten()
    inner = history @ history.T + damping * torch.eye(len(history), device=low.device, dtype=low.dtype)
    outside = flat - history.T @ torch.linalg.solve(inner, history @ flat)
    found: Tensor = (outside / damping).view_as(low)
    return found


def ratio(update: Tensor, low: Tensor, tensorwise: bool) -> Tensor:
    """phi: the norm of Adam's update over that of what it came from, (m x 1) or (1 x 1); 0 where that is 0."""
    over = (0, 1) if tensorwise else (1,)
    after, before = (torch.linalg.vector_norm(x, dim=over, keepdim=True) for x in (update, low))
    return torch.where(before > 0, after / before, 0.0)


def limit(update: Tensor, state: State) -> Tensor:
    """The update, shortened where its norm is above `GROWTH` times that of the one before, which ``state`` keeps."""
    norm = torch.linalg.vector_norm(update)
    before = state.get("norm", torch.zeros_like(norm))
    # After an update of 0 there is nothing to grow from: without this it would be 0 for ever.
    most = torch.where(before > 0, GROWTH * before, torch.inf)
    factor = (most / norm).clamp(max=1.0)
    state["norm"] = norm * factor
    limited: Tensor = update * factor
    return limited


class SubspaceAdamW(Exact):
    """AdamW, with the moments of matrices in a subspace.

    Args:
        params: Groups, each with ``projected``: whether its parameters are matrices to project.
        lr: Learning rate.
        betas: Decay of the moments.
        eps: Added to the root of the second.
        rule: How matrices are projected.
    """

    def __init__(
        self, params: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float, rule: Rule
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.rule = rule
        bases: dict[str, Basis] = {"svd": Singular(), "cosine": Cosines(), "noise": Noise(rule.seed)}
        self._basis = bases[rule.basis]
        weights = (weight for group in self.param_groups for weight in group["params"])
        self._place = {weight: at for at, weight in enumerate(weights)}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every weight that has a gradient."""
        loss = evaluate(closure)
        for group in self.param_groups:
            ready = [weight for weight in group["params"] if weight.grad is not None]
            if not group["projected"]:
                advance(ready, [weight.grad for weight in ready], [self.state[weight] for weight in ready], group)
                continue
            for weight in ready:
                turned = weight.shape[0] < weight.shape[1]
                grad = wide(weight.grad.T if turned else weight.grad)
                update = self._update(grad, self.state[weight], group, self._place[weight])
                moved = wide(weight)
                moved.mul_(1 - group["lr"] * group["weight_decay"])
                moved.sub_(update.T if turned else update, alpha=group["lr"] * self.rule.scale)
                if moved is not weight:
                    weight.copy_(moved)
        return loss

    def _update(self, grad: Tensor, state: State, group: State, place: int) -> Tensor:
        """(m x n) what to subtract, less learning rate and scale."""
        rule, rank = self.rule, min(self.rule.rank, grad.shape[1])
        done = int(state.get("step", 0))
        if done % rule.gap == 0:
            self._basis.choose(state, grad, rank, place)
            # Gradients of another subspace say nothing in this one.
            state.pop("history", None)
        basis = self._basis.matrix(state, grad, rank)
        low = grad @ basis
        given = natural(low, self._remember(low, state, done), rule.damping) if rule.history else low
        direction = torch.zeros_like(low)
        advance([direction], [given], [state], {**group, "lr": -1.0, "weight_decay": 0.0})
        if rule.rest == "instead":
            return limit(ratio(direction, low, rule.tensorwise) * grad, state)
        update = direction @ basis.T
        if rule.rest == "add":
            update += limit(ratio(direction, low, rule.tensorwise) * (grad - low @ basis.T), state)
        return update

    def _remember(self, low: Tensor, state: State, done: int) -> Tensor:
        """(s x mr) the last s projected gradients, this one among them, in no order."""
        if "history" not in state:
            state["history"] = low.new_zeros(self.rule.history, low.numel())
        history: Tensor = state["history"]
        history[done % self.rule.history] = low.flatten()
        return history
