"""Parameter groups of optimizers: trainable parameters with the same options form a group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from rerank.errors import UsageError

#: Function that takes the name of a parameter and the parameter, and returns further options of its group.
GroupOptions = Callable[[str, nn.Parameter], Mapping[str, Any]]


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Return the (name, parameter) pairs with ``requires_grad``, in the model's order and without duplicates."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def projectable_matrices(model: nn.Module) -> set[nn.Parameter]:
    """Return the matrices whose gradients can be projected: trainable, both sides above 1, and not an embedding.

    An output head that shares the weight of the embedding counts as the embedding.
    """
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    return {
        weight
        for _, weight in trainable_parameters(model)
        if weight.ndim == 2 and min(weight.shape) > 1 and weight not in tables
    }


def make_parameter_groups(
    model: nn.Module, weight_decay: float, extra: GroupOptions = lambda name, weight: {}
) -> list[dict[str, Any]]:
    """Return groups for a torch optimizer: vectors without weight decay, all other parameters with it.

    Args:
        model: Model whose trainable parameters are grouped; each of them belongs to exactly one group.
        weight_decay: Weight decay of parameters that are not vectors.
        extra: Further options of a parameter, computed from its name and value; parameters with equal options share a
            group.

    Raises:
        UsageError: The model has no trainable parameter.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
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


def exempt_vectors_from_decay(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups, with vectors moved to separate groups without weight decay."""
    result = []
    for group in groups:
        vectors = [weight for weight in group["params"] if weight.ndim < 2]
        others = [weight for weight in group["params"] if weight.ndim >= 2]
        result += [{**group, "params": others}] if others else []
        result += [{**group, "params": vectors, "weight_decay": 0.0}] if vectors else []
    return result
