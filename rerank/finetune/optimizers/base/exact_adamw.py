"""AdamW whose state comes back from a checkpoint as it was. Knows tensors, not models.

torch casts what it loads to the parameter's number type: moments in float32 of bfloat16 weights would come back
rounded, and indices as fractions. Here each tensor keeps its own type, and moments are never narrower than float32. The
arithmetic is torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

State = dict[str, Any]


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is narrower; itself, not a copy, if it is not."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """The loss that a closure gives, computed with gradients; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def advance(weights: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[State], group: State) -> None:
    """One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) in place.

    Narrow weights go one by one, for each needs a wide copy for as long as it is stepped.

    Args:
        weights: What moves.
        grads: As many, of the same shapes.
        states: Of each, empty before its first step; ``step``, ``exp_avg`` and ``exp_avg_sq`` as in torch.
        group: ``lr``, ``betas``, ``eps`` and ``weight_decay``.
    """
    as_they_are = []
    for weight, grad, state in zip(weights, grads, states, strict=True):
        if "exp_avg" not in state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(wide(weight))
            state["exp_avg_sq"] = torch.zeros_like(wide(weight))
        copy = wide(weight)
        if copy is weight:
            as_they_are.append((weight, wide(grad), state))
        else:
            _adamw([(copy, wide(grad), state)], group)
            weight.copy_(copy)
    _adamw(as_they_are, group)


def _adamw(moved: Sequence[tuple[Tensor, Tensor, State]], group: State) -> None:
    if not moved:
        return
    weights, grads, states = zip(*moved, strict=True)
    beta1, beta2 = group["betas"]
    adamw(
        list(weights),
        list(grads),
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


class Exact(torch.optim.Optimizer):
    """An optimizer whose state is loaded as it was saved, each tensor in its own number type."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` gave; parameters without an entry begin anew.

        Raises:
            ValueError: The groups are others than those here.
        """
        super().load_state_dict({**state_dict, "state": {}})
        indices = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        weights = chain.from_iterable(group["params"] for group in self.param_groups)
        for index, weight in zip(indices, weights, strict=True):
            if index in state_dict["state"]:
                self.state[weight] = {
                    # The step count stays on the CPU, where reading it stops no GPU.
                    key: value if key == "step" or not isinstance(value, Tensor) else value.to(weight.device)
                    for key, value in state_dict["state"][index].items()
                }


class ExactAdamW(Exact):
    """AdamW with moments in float32 or wider, whatever the weights are in.

    Args:
        params: As for `torch.optim.Optimizer`.
        lr: Learning rate of groups that have none of their own.
        betas: Decay of the moments.
        eps: Added to the root of the second.
        weight_decay: Decoupled; of groups that have none of their own.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def adjusted(self) -> Mapping[Tensor, Tensor]:
        """Weight -> the gradient to use instead of its own, for those that need another."""
        return {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every weight that has a gradient."""
        loss = evaluate(closure)
        other = self.adjusted()
        for group in self.param_groups:
            ready = [weight for weight in group["params"] if weight.grad is not None]
            grads = [other.get(weight, weight.grad) for weight in ready]
            advance(ready, grads, [self.state[weight] for weight in ready], group)
        return loss
