"""Compute the KV cache of each prompt prefix (such as the instruction) only once. Imports torch at import time."""

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
from rerank.lm.tensor_parallel import is_causal_model_split

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
        self._drop_prefixes_of_other_weights()
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

    def _drop_prefixes_of_other_weights(self) -> None:
        """Clear the store if the model was trained, or its weights were replaced, since the last batch."""
        weights = hash(tuple(_prefix_cache_weight_stamp(parameter) for parameter in self._model.parameters()))
        if weights != self._weights:
            self._store.clear()
        self._weights = weights


def supports_prefixes(model: Any) -> bool:
    """Return whether the KV cache of a prefix is the first part of the KV cache of the whole prompt.

    This does not hold for layers with a recurrent state or a sliding window, nor if the position encoding depends on
    the length of the whole prompt. Models whose weights are split or sharded over processes are also excluded, because
    all processes must run the same forward passes.
    """
    if not has_full_attention(model.config) or is_causal_model_split(model):
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
        start: Number of tokens in the cache.
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


def _prefix_keys(prompt: Sequence[int], ends: Sequence[int]) -> Iterator[bytes]:
    """Yield the key of each prefix: a hash of its tokens and of the prefixes that it extends.

    The KV cache of the same tokens differs in its last bits if it was computed in different pieces. The key therefore
    depends on the pieces.
    """
    key, start = b"", 0
    for end in ends:
        key = hashlib.blake2b(key + array("q", prompt[start:end]).tobytes(), digest_size=32).digest()
        yield key
        start = end


def _prefix_cache_weight_stamp(parameter: Any) -> tuple[int, int]:
    """Return two numbers that change if a parameter is overwritten (its version) or replaced (its address)."""
    return parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version
