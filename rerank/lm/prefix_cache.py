"""Computation of the KV caches of prompt prefixes, each once. Imports torch at import time."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from rerank.lm.cpu_attention import has_full_attention
from rerank.lm.forward_pass import call_forward
from rerank.lm.kv_cache import PreallocatedLayer, make_kv_cache
from rerank.lm.output_head import OutputHead
from rerank.lm.prefix_store import PrefixSegment, PrefixStore
from rerank.lm.temporary_settings import TemporarySettings
from rerank.lm.tensor_parallel import is_split_over_processes

#: Types of RoPE whose frequencies depend on the length of the prompt.
_ROPE_BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """The KV cache of the beginning of a prompt.

    Attributes:
        length: Number of tokens.
        segments: The cache in pieces; each continues the one before it.
        reused: Number of its tokens that were not computed for this prompt.
    """

    length: int = 0
    segments: tuple[PrefixSegment, ...] = ()
    reused: int = 0


class PrefixCache:
    """Computes prefixes of prompts for one model and keeps them in a store.

    A prefix is always computed in the same way: in a batch of one, on top of the prefix that it extends. Its bits
    therefore do not depend on what the store holds.

    Args:
        model: A causal language model of transformers that `supports_prefixes`.
        store: Keeps the prefixes.
    """

    def __init__(self, model: Any, store: PrefixStore) -> None:
        self._model, self._store = model, store
        self._weights = 0

    def load(self, prompts: Sequence[Sequence[int]], plan: Sequence[Sequence[int]]) -> list[CachedPrefix]:
        """Return the planned prefixes of the prompts of a batch, from the store or computed now.

        Args:
            prompts: Token ids, one list per prompt.
            plan: The lengths of the prefixes of each prompt, increasing; see `rerank.lm.prefix_plan`.
        """
        if not any(plan):
            return [CachedPrefix() for _ in prompts]
        self._drop_prefixes_of_other_weights()
        batch: dict[bytes, PrefixSegment] = {}  # the store may drop a segment before the batch has used it
        with TemporarySettings(self._model), OutputHead(self._model) as head:
            head.token_ids = [0]  # no logits are needed
            return [self._load_prefix(prompt, ends, batch) for prompt, ends in zip(prompts, plan, strict=True)]

    def clear(self) -> bool:
        """Drop all prefixes; return whether there were any."""
        had_some = len(self._store) > 0
        self._store.clear()
        return had_some

    def _load_prefix(
        self, prompt: Sequence[int], ends: Sequence[int], batch: dict[bytes, PrefixSegment]
    ) -> CachedPrefix:
        segments: list[PrefixSegment] = []
        start = reused = 0
        for end, key in zip(ends, _prefix_keys(prompt, ends), strict=True):
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
        """Compute the tokens ``ids`` on top of a prefix of ``start`` tokens."""
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

    def _drop_prefixes_of_other_weights(self) -> None:
        """Clear the store if the model was trained, or its weights were replaced, since the last batch."""
        weights = hash(tuple(_weight_stamp(parameter) for parameter in self._model.parameters()))
        if weights != self._weights:
            self._store.clear()
        self._weights = weights


def supports_prefixes(model: Any) -> bool:
    """Return whether the KV cache of a prefix of a prompt is that of the prompt, cropped.

    It is not in layers with a recurrent state or a sliding window, nor if the length of the whole prompt decides how
    positions are encoded. Models whose weights are split or sharded over processes are excluded too: their processes
    must run the same forward passes.
    """
    if not has_full_attention(model.config) or is_split_over_processes(model):
        return False
    rope = str([getattr(model.config, name, None) for name in ("rope_parameters", "rope_scaling")])
    if any(kind in rope for kind in _ROPE_BY_LENGTH):
        return False
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        return False
    return all(type(layer) is PreallocatedLayer for layer in make_kv_cache(model.config, 1).layers)


def make_filled_cache(model: Any, segments: Sequence[PrefixSegment], capacity: int) -> Cache:
    """Return a KV cache of one row that holds a prefix and has memory for ``capacity`` tokens."""
    cache = make_kv_cache(model.config, capacity)
    layers: list[Any] = cache.layers
    for segment in segments:
        for layer, keys, values in zip(layers, segment.keys, segment.values, strict=True):
            layer.update(keys, values)
    return cache


def compute_on_cache(
    model: Any, cache: Cache, start: int, ids: Sequence[int], *, last: int = 1, padding: int = 0
) -> Any:
    """Run a forward pass of one row on top of a KV cache of ``start`` tokens, which is extended; return its output.

    Args:
        model: The model.
        cache: The KV cache.
        start: Number of tokens in the cache.
        ids: The new tokens.
        last: Number of positions at the end whose logits are needed.
        padding: Number of tokens to add after the new ones, which do not see them.
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
    """Return the number of tokens that a forward pass on a CPU is padded to, at most 16 or 3% more.

    In bfloat16, the matrix library prepares and keeps its code for every new number of tokens, which takes 5 MB with
    SmolLM2-135M and 8% of the time of the pass.
    """
    step = max(16, 1 << max(0, tokens.bit_length() - 6))
    return -(-tokens // step) * step


def _prefix_keys(prompt: Sequence[int], ends: Sequence[int]) -> Iterator[bytes]:
    """Yield the key of each prefix: a hash of its tokens and of the prefixes that it extends.

    The same tokens have other bits if they were computed in other pieces, so the pieces are part of the key.
    """
    key, start = b"", 0
    for end in ends:
        key = hashlib.blake2b(key + array("q", prompt[start:end]).tobytes(), digest_size=32).digest()
        yield key
        start = end


def _weight_stamp(parameter: Any) -> tuple[int, int]:
    """Return two numbers that change if a parameter is overwritten (its version) or replaced (its address)."""
    return parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version
