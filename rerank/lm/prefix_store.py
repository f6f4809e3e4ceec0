"""A bounded store of the KV caches of prompt prefixes. Imports torch at import time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

#: Default limit of a store in bytes: in bfloat16, enough for 46,000 tokens of SmolLM2-135M or 8,000 tokens of a model
#: with 8 billion parameters.
DEFAULT_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class PrefixSegment:
    """Keys and values of the tokens that a prefix adds to the shorter prefix that it extends."""

    #: One tensor per layer, of shape (1, key-value heads, tokens, head size), after RoPE.
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]  # one tensor per layer, of the same shape as in ``keys``

    @property
    def size(self) -> int:
        """Size of all keys and values in bytes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class PrefixStore:
    """A store of prefix segments by key. If the limit is exceeded, the least recently used ones are dropped.

    Args:
        limit: Maximum total size in bytes; with 0, no segment is kept.

    Attributes:
        size: Total size of the stored segments in bytes.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._segments: OrderedDict[bytes, PrefixSegment] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._segments)

    def get(self, key: bytes) -> PrefixSegment | None:
        """Return a segment and mark it as recently used; None if it is not in the store."""
        segment = self._segments.get(key)
        if segment is not None:
            self._segments.move_to_end(key)
        return segment

    def put(self, key: bytes, segment: PrefixSegment) -> None:
        """Add a segment, unless it is larger than the limit or its key is already in the store."""
        if segment.size > self._limit or key in self._segments:
            return
        self._segments[key] = segment
        self.size += segment.size
        while self.size > self._limit:
            _, dropped = self._segments.popitem(last=False)
            self.size -= dropped.size

    def clear(self) -> None:
        """Drop all segments."""
        self._segments.clear()
        self.size = 0
