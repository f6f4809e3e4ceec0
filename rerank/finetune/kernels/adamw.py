"""AdamW whose state is restored from a checkpoint bit by bit, and groups of parameters.

torch casts the state that it loads to the data type of the parameters, which rounds moments of bfloat16 weights and
makes indices floats. Here each tensor keeps its data type, and moments are at least float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from rerank.errors import UsageError

State = dict[str, Any]
#: Function that takes the name of a parameter and the parameter, and returns further options of its group.
GroupOptions = Callable[[str, nn.Parameter], Mapping[str, Any]]


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Return the (name, parameter) pairs with ``requires_grad``, in the model's order and without duplicates."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def projectable_matrices(model: nn.Module) -> set[nn.Parameter]:
    """Return the trainable matrices with sides above 1 that are not an embedding, also if an output head shares it."""
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    return {
        weight
        for _, weight in trainable_parameters(model)
        if weight.ndim == 2 and min(weight.shape) > 1 and weight not in tables
    }


def make_parameter_groups(
    model: nn.Module, weight_decay: float, extra: GroupOptions = lambda name, weight: {}
) -> list[State]:
    """Return groups of the trainable parameters for a torch optimizer; vectors have no weight decay.

    ``extra`` returns further options of a parameter; parameters with equal options share a group.
    """
    groups: dict[tuple[Any, ...], State] = {}
    for name, weight in trainable_parameters(model):
        options = {"weight_decay": weight_decay if weight.ndim > 1 else 0.0, **extra(name, weight)}
        # The values of the options are the key of a group; groups are in the order of their first parameters.
        groups.setdefault(tuple(options.values()), {**options, "params": []})["params"].append(weight)
    if not groups:
        raise UsageError(
            "The model has no trainable parameter",
            expected="at least one parameter with requires_grad",
            remedy="Attach an adapter first, or unfreeze weights",
        )
    return list(groups.values())


def exempt_vectors_from_decay(groups: list[State]) -> list[State]:
    """Return the groups, with vectors moved to separate groups without weight decay."""
    result = []
    for group in groups:
        vectors = [weight for weight in group["params"] if weight.ndim < 2]
        others = [weight for weight in group["params"] if weight.ndim >= 2]
        result += [{**group, "params": others}] if others else []
        result += [{**group, "params": vectors, "weight_decay": 0.0}] if vectors else []
    return result


def widen(tensor: Tensor) -> Tensor:
    """Return the tensor as float32 if its data type is narrower; otherwise the tensor itself, not a copy."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def call_closure(closure: Callable[[], Any] | None) -> Any:
    """Return the loss of a closure, called with gradients enabled, if there is one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def step_adamw(weights: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[State], group: State) -> None:
    """Apply one step of AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) in place.

    Weights narrower than float32 are processed one at a time, since each needs a float32 copy during its step. A state
    has ``step``, ``exp_avg`` and ``exp_avg_sq`` as in torch, and is empty before the first step; ``group`` has ``lr``,
    ``betas``, ``eps`` and ``weight_decay``.
    """
    wide_enough = []
    for weight, grad, state in zip(weights, grads, states, strict=True):
        if "exp_avg" not in state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(widen(weight))
            state["exp_avg_sq"] = torch.zeros_like(widen(weight))
        # A 16-bit weight is updated as a float32 copy and rounded once at the end; a wide weight is updated directly.
        if (copy := widen(weight)) is weight:
            wide_enough.append((weight, widen(grad), state))
        else:
            _update([(copy, widen(grad), state)], group)
            weight.copy_(copy)
    if wide_enough:
        _update(wide_enough, group)


def _update(updates: Sequence[tuple[Tensor, Tensor, State]], group: State) -> None:
    weights, grads, states = zip(*updates, strict=True)
    beta1, beta2 = group["betas"]
    # m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2; m^ and v^ are m and v after bias correction;
    # w <- w - lr weight_decay w - lr m^ / (sqrt(v^) + eps).
    adamw(
        list(weights),
        list(grads),
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],  # max_exp_avg_sqs, which only AMSGrad has
        [state["step"] for state in states],
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


class ExactStateOptimizer(torch.optim.Optimizer):
    """Optimizer with Adam's options whose state is loaded as it was saved, each tensor in its own data type."""

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

    def load_state_dict(self, state_dict: State) -> None:
        """Load the result of `state_dict`; parameters without an entry start with an empty state."""
        # Groups and options only: torch would cast the state to the data type of the parameters.
        super().load_state_dict({**state_dict, "state": {}})
        indices = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        weights = chain.from_iterable(group["params"] for group in self.param_groups)
        for index, weight in zip(indices, weights, strict=True):
            if index in state_dict["state"]:
                self.state[weight] = {
                    # The step counter stays on the CPU, where reading it does not synchronise a GPU.
                    key: value if key == "step" or not isinstance(value, Tensor) else value.to(weight.device)
                    for key, value in state_dict["state"][index].items()
                }


class ExactAdamW(ExactStateOptimizer):
    """AdamW whose moments have at least float32 precision, independent of the data type of the weights."""

    def adjusted_gradients(self) -> Mapping[Tensor, Tensor]:
        return {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = call_closure(closure)
        adjusted = self.adjusted_gradients()
        for group in self.param_groups:
            ready = [weight for weight in group["params"] if weight.grad is not None]
            grads = [adjusted.get(weight, weight.grad) for weight in ready]
            step_adamw(ready, grads, [self.state[weight] for weight in ready], group)
        return loss
