"""Forward passes of different model classes and versions of transformers, and their KV caches. Imports torch.

The memory of a KV cache is preallocated: new tokens are written in place instead of copying the whole cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rerank.errors import UsageError


def call_forward(model: Any, *, cache: Any = None, **arguments: Any) -> Any:
    """Call a model with those arguments that it accepts; some lack ``position_ids`` or ``logits_to_keep``."""
    names = _parameters(type(model).forward)
    accepted = {name: value for name, value in arguments.items() if name in names}
    return model(**accepted, **({} if cache is None else {kv_cache_argument_name(model): cache}))


def kv_cache_of_output(model: Any, output: Any) -> Any:
    """Return the KV cache that a forward pass returned; None if it did not return one."""
    return getattr(output, kv_cache_argument_name(model), None)


def kv_cache_argument_name(model: Any) -> str:
    """Return the name of the KV cache argument of a model, which depends on the version of transformers."""
    return "cache" if "cache" in _parameters(type(model).forward) else "past_key_values"


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


class PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """The KV cache of one layer, with memory for ``capacity`` tokens, which grows if more tokens are added.

    ``keys`` and ``values`` are views of the filled part, of shape (batch, key-value heads, tokens, head size), so that
    all other methods of `DynamicLayer` work unchanged.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of new tokens and return those of all tokens."""
        start = int(self.get_seq_length())
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cached = self.keys
        # transformers may have replaced ``keys`` (reordered batch); they are then no longer views of our buffers.
        is_view = self._buffers is not None and (
            start == 0 or cached is None or cached.data_ptr() == self._buffers[0].data_ptr()
        )
        if self._buffers is None or not is_view or end > self._buffers[0].shape[-2]:
            # Doubling keeps the total cost of copying linear in the number of tokens.
            capacity = max(self._capacity, end if start == 0 else 2 * end)
            buffers = []
            for new, old in ((key_states, cached), (value_states, self.values)):
                buffer = new.new_empty((*new.shape[:-2], capacity, new.shape[-1]))
                if start and old is not None:
                    buffer[:, :, :start] = old
                buffers.append(buffer)
            self._buffers = (buffers[0], buffers[1])
        keys, values = self._buffers
        # (batch, key-value heads, tokens, head size): only the new tokens are written.
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def make_kv_cache(config: Any, capacity: int) -> Cache:
    """Return an empty KV cache for a model; its full-attention layers have memory for ``capacity`` tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def snapshot_kv_cache(cache: Cache) -> list[dict[str, Any]]:
    """Return the state that `restore_kv_cache` needs; nothing is copied, since layers never overwrite cached tokens."""
    for layer in cache.layers:
        if type(layer) not in (PreallocatedLayer, DynamicLayer, DynamicSlidingWindowLayer):
            raise UsageError(
                f"This model has layers with a recurrent state ({type(layer).__name__})",
                expected="a decoder in which every layer is an attention layer",
                remedy="Use another model, or another method",
            )
    return [dict(vars(layer)) for layer in cache.layers]


def restore_kv_cache(cache: Cache, state: list[dict[str, Any]]) -> None:
    """Remove all tokens that were added since `snapshot_kv_cache`."""
    for layer, attributes in zip(cache.layers, state, strict=True):
        # The stored views end at the snapshot; later tokens stay in the buffer until they are overwritten.
        vars(layer).clear()
        vars(layer).update(attributes)
