"""Which parameters of a model an optimizer treats alike. Knows models, not what is done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from rerank.errors import UsageError

Extra = Callable[[str, nn.Parameter], Mapping[str, Any]]


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of all that ask for gradients, shared ones once, in the model's order."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def matrices(model: nn.Module) -> set[nn.Parameter]:
    """The parameters that multiply: two-dimensional, with no side of 1, and no embedding's table.

    A head that shares the embedding's table is that table.
    """
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    return {
        weight for _, weight in trained(model) if weight.ndim == 2 and min(weight.shape) > 1 and weight not in tables
    }


def trained_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """What `rerank.finetune.optimizers.base.Optimizer.state` is to be asked about.

    (rows, columns) of `matrices`; everything else, vectors and embeddings, as (1, size).
    """
    found = matrices(model)
    return [
        (weight.shape[0], weight.shape[1]) if weight in found else (1, weight.numel()) for _, weight in trained(model)
    ]


def parameter_groups(
    model: nn.Module, weight_decay: float, extra: Extra = lambda name, weight: {}
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer: vectors without weight decay, all others with it.

    Args:
        model: All of its parameters that ask for gradients come into one group each.
        weight_decay: Of what is no vector.
        extra: Further options of a parameter, by its name; those with the same options share a group.

    Raises:
        UsageError: Nothing asks for gradients.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, weight in trained(model):
        options = {"weight_decay": weight_decay if weight.ndim > 1 else 0.0, **extra(name, weight)}
        groups.setdefault(tuple(options.values()), {**options, "params": []})["params"].append(weight)
    if not groups:
        raise UsageError(
            "No parameter of the model asks for gradients",
            expected="something to train",
            remedy="Attach an adapter first, or unfreeze the weights",
        )
    return list(groups.values())


def spare_vectors(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same groups, their vectors in groups of their own without weight decay."""
    spared = []
    for group in groups:
        vectors = [weight for weight in group["params"] if weight.ndim < 2]
        others = [weight for weight in group["params"] if weight.ndim >= 2]
        spared += [{**group, "params": others}] if others else []
        spared += [{**group, "params": vectors, "weight_decay": 0.0}] if vectors else []
    return spared
