"""A forward pass that works with different model classes and versions of transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def call_forward(model: Any, *, cache: Any = None, **arguments: Any) -> Any:
    """Call a model with only the arguments that its ``forward`` accepts.

    Some models do not accept ``position_ids`` or ``logits_to_keep``.

    Args:
        model: A model of transformers.
        cache: The KV cache of the tokens processed so far; None to start without one.
        arguments: Arguments for the model's ``forward``; those that it does not accept are dropped.
    """
    names = _forward_parameters(type(model).forward)
    accepted = {name: value for name, value in arguments.items() if name in names}
    return model(**accepted, **({} if cache is None else {kv_cache_argument_name(model): cache}))


def kv_cache_of_output(model: Any, output: Any) -> Any:
    """Return the KV cache that a forward pass returned; None if it did not return one."""
    return getattr(output, kv_cache_argument_name(model), None)


def kv_cache_argument_name(model: Any) -> str:
    """Return the name of the KV cache argument of a model, which depends on the version of transformers."""
    return "cache" if "cache" in _forward_parameters(type(model).forward) else "past_key_values"


@lru_cache(maxsize=64)
def _forward_parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
