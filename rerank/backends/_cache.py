"""A key-value cache with room: new tokens are written in place, where transformers' own copies the whole cache.

Imports torch at its top, so it is imported only when a model is there.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


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


def roomy_cache(layers: int, capacity: int) -> Cache:
    """A cache for a model of ``layers`` layers that all attend to everything."""
    return Cache(layers=[RoomyLayer(capacity) for _ in range(layers)])
