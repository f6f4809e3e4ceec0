"""One forward pass of a model of transformers, whatever its version calls the cache and whatever its class takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def forward(model: Any, *, cache: Any = None, **given: Any) -> Any:
    """Call a model with those of ``given`` that it takes: not all know positions, or can leave logits out.

    Args:
        model: The model.
        cache: What it has read already; None for nothing, or where no cache is wanted.
        given: Arguments of its ``forward``.
    """
    names = _parameters(type(model).forward)
    taken = {name: value for name, value in given.items() if name in names}
    return model(**taken, **({} if cache is None else {cache_name(model): cache}))


def cache_of(model: Any, out: Any) -> Any:
    """The cache that a forward pass returned; None if it kept none."""
    return getattr(out, cache_name(model), None)


def cache_name(model: Any) -> str:
    """The name that this version of transformers gives to caches."""
    return "cache" if "cache" in _parameters(type(model).forward) else "past_key_values"


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
