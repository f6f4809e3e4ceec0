"""Compute and keep the KV cache of each prompt prefix (such as the instruction). Imports torch at import time."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from rerank.lm.cpu_attention import has_full_attention
from rerank.lm.forward_pass import call_forward
from rerank.lm.kv_cache import PreallocatedLayer, make_kv_cache
from rerank.lm.model_process import is_split
from rerank.lm.temporary_settings import OutputHead, TemporarySettings

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


#: Types of RoPE whose frequencies depend on the length of the prompt.
_ROPE_BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """The KV cache of the beginning of a prompt."""

    length: int = 0  # number of tokens of the prefix
    segments: tuple[PrefixSegment, ...] = ()  # the KV cache in consecutive segments
    #: Number of tokens of the prefix that were not computed for this prompt, but taken from the cache.
    reused: int = 0


class PrefixCache:
    """A cache that computes prefixes of prompts for one model and keeps them in a store.

    A prefix is always computed in the same way: in a batch of one row, on top of the prefix that it extends. Its
    values are therefore bit-identical, whatever the store contains.

    Args:
        model: A causal language model of transformers that `supports_prefixes`.
    """

    def __init__(self, model: Any, store: PrefixStore) -> None:
        self._model, self._store = model, store
        self._weights = 0

    def load(self, prompts: Sequence[Sequence[int]], plan: Sequence[Sequence[int]]) -> list[CachedPrefix]:
        """Return the planned prefix of each prompt in a batch, from the store or newly computed.

        Args:
            prompts: Token ids, one list per prompt.
            plan: Lengths of the planned prefixes of each prompt, in increasing order (`rerank.lm.local_tasks`).
        """
        if not any(plan):
            return [CachedPrefix() for _ in prompts]
        # Clear the store if the model was trained, or its weights were replaced, since the last batch. A parameter that
        # is overwritten has another version, and one that is replaced has another address.
        parameters = self._model.parameters()
        weights = hash(tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters))
        if weights != self._weights:
            self._store.clear()
        self._weights = weights
        batch: dict[bytes, PrefixSegment] = {}  # since the store may drop segments that the batch still needs
        with TemporarySettings(self._model), OutputHead(self._model) as head:
            head.token_ids = [0]  # no logits are needed
            return [self._load_prefix(prompt, ends, batch) for prompt, ends in zip(prompts, plan, strict=True)]

    def clear(self) -> bool:
        """Drop all prefixes, and return whether the store contained any."""
        had_some = len(self._store) > 0
        self._store.clear()
        return had_some

    def _load_prefix(
        self, prompt: Sequence[int], ends: Sequence[int], batch: dict[bytes, PrefixSegment]
    ) -> CachedPrefix:
        segments: list[PrefixSegment] = []
        start = reused = 0
        for end, key in zip(ends, _keys_of(prompt, ends), strict=True):
            segment = batch.get(key) or self._store.get(key)
            if segment is None:
                segment = self._extend(segments, start, prompt[start:end])
                self._store.put(key, segment)
            else:
                reused += end - start
            batch[key] = segment
            segments.append(segment)
            start = end
        return CachedPrefix(start, tuple(segments), reused)

    def _extend(self, segments: Sequence[PrefixSegment], start: int, ids: Sequence[int]) -> PrefixSegment:
        """Compute the keys and values of the tokens ``ids``, which follow a prefix of ``start`` tokens."""
        padding = round_pass_length(len(ids)) - len(ids) if self._model.device.type == "cpu" else 0
        cache = make_filled_cache(self._model, segments, start + len(ids) + padding)
        compute_on_cache(self._model, cache, start, ids, padding=padding)
        layers: list[Any] = cache.layers
        own = slice(start, start + len(ids))
        # Copies, so that a segment does not keep the memory of its parent alive.
        return PrefixSegment(
            keys=tuple(layer.keys[:, :, own].clone() for layer in layers),
            values=tuple(layer.values[:, :, own].clone() for layer in layers),
        )


def supports_prefixes(model: Any) -> bool:
    """Return whether the KV cache of a prefix is the first part of the KV cache of the whole prompt.

    This does not hold for layers with a recurrent state or a sliding window, nor if the position encoding depends on
    the length of the whole prompt. Models whose weights are split or sharded over processes are also excluded, because
    all processes must run the same forward passes.
    """
    if not has_full_attention(model.config) or is_split(model):
        return False
    rope = str([getattr(model.config, name, None) for name in ("rope_parameters", "rope_scaling")])
    if any(kind in rope for kind in _ROPE_BY_LENGTH):
        return False
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        return False
    return all(type(layer) is PreallocatedLayer for layer in make_kv_cache(model.config, 1).layers)


def make_filled_cache(model: Any, segments: Sequence[PrefixSegment], capacity: int) -> Cache:
    """Return a KV cache of one row that contains a prefix and has memory for ``capacity`` tokens."""
    cache = make_kv_cache(model.config, capacity)
    layers: list[Any] = cache.layers
    for segment in segments:
        for layer, keys, values in zip(layers, segment.keys, segment.values, strict=True):
            layer.update(keys, values)
    return cache


def compute_on_cache(
    model: Any, cache: Cache, start: int, ids: Sequence[int], *, last: int = 1, padding: int = 0
) -> Any:
    """Run a forward pass of one row on top of a KV cache, add the new tokens to the cache, and return the output.

    Args:
        last: Number of positions at the end whose logits are computed.
        padding: Number of padding tokens after the new tokens. New tokens do not attend to the padding.
    """
    end = start + len(ids) + padding
    return call_forward(
        model,
        cache=cache,
        input_ids=torch.tensor([[*ids, *[0] * padding]], device=model.device),
        attention_mask=torch.ones((1, end), dtype=torch.long, device=model.device),
        # The padding repeats the last position, so that no position is beyond the context.
        position_ids=torch.arange(start, end, device=model.device).clamp(max=end - padding - 1)[None],
        use_cache=True,
        logits_to_keep=last,
    )


def round_pass_length(tokens: int) -> int:
    """Return the number of tokens to which a forward pass on a CPU is padded: at most 16 tokens or 3% more.

    In bfloat16, the matrix library generates and keeps code for every new number of tokens. With SmolLM2-135M, this
    code takes 5 MB and 8% of the time of the pass.
    """
    step = max(16, 1 << max(0, tokens.bit_length() - 6))
    return -(-tokens // step) * step


def _keys_of(prompt: Sequence[int], ends: Sequence[int]) -> Iterator[bytes]:
    """Yield the key of each prefix: a hash of its tokens and of the prefixes that it extends.

    The KV cache of the same tokens differs in its last bits if it was computed in different pieces. The key therefore
    depends on the pieces.
    """
    key, start = b"", 0
    for end in ends:
        key = hashlib.blake2b(key + array("q", prompt[start:end]).tobytes(), digest_size=32).digest()
        yield key
        start = end
