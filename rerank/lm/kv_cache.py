"""A key-value cache with room: new tokens are written in place, where transformers' own copies the whole cache.

Imports torch at its top, so it is imported only when a model is there.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rerank.errors import UsageError


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """The cache of one layer, with room for ``capacity`` tokens from the start; it grows if that is not enough.

    ``keys`` and ``values`` are views of the filled part, shape (batch, key-value heads, tokens, head size), so
    everything that `DynamicLayer` does with them holds here too.

    Args:
        capacity: Tokens to make room for.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens; return those of all tokens."""
        start = int(self.get_seq_length())
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._with_room(key_states, value_states, start, end)
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def _with_room(
        self, key_states: torch.Tensor, value_states: torch.Tensor, start: int, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Buffers that hold what is cached and have room up to ``end``: the present ones, or larger ones."""
        held = self.keys
        # Somebody may have replaced ``keys`` (a reordered batch), so that they are no view of our buffer any more.
        ours = self._room is not None and (start == 0 or held is None or held.data_ptr() == self._room[0].data_ptr())
        if self._room is not None and ours and end <= self._room[0].shape[-2]:
            return self._room
        capacity = max(self._capacity, end if start == 0 else 2 * end)
        room = []
        for new, old in ((key_states, held), (value_states, self.values)):
            buffer = new.new_empty((*new.shape[:-2], capacity, new.shape[-1]))
            if start and old is not None:
                buffer[:, :, :start] = old
            room.append(buffer)
        self._room = (room[0], room[1])
        return self._room


def roomy_cache(config: Any, capacity: int) -> Cache:
    """An empty cache for a model, its layers that attend to everything with room for ``capacity`` tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def snapshot(cache: Cache) -> list[dict[str, Any]]:
    """What `restore` needs to go back here; nothing is copied, as layers never write over what they have read.

    Raises:
        UsageError: A layer keeps a running state instead of keys and values.
    """
    for layer in cache.layers:
        if type(layer) not in (RoomyLayer, DynamicLayer, DynamicSlidingWindowLayer):
            raise UsageError(
                f"This model has layers with a running state ({type(layer).__name__})",
                expected="a decoder all of whose layers are attention",
                remedy="Take another model, or another method",
            )
    return [dict(vars(layer)) for layer in cache.layers]


def restore(cache: Cache, kept: list[dict[str, Any]]) -> None:
    """Forget what was read since."""
    for layer, state in zip(cache.layers, kept, strict=True):
        vars(layer).clear()
        vars(layer).update(state)
