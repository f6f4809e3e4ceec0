"""Compute and keep the KV cache of each prompt prefix (such as the instruction), and logits at the ends of prompts.

Only the tokens after the cached prefix are processed for these logits. Several prompts (rows) are concatenated into one
sequence, so that their tokens share the matrix products of a forward pass. The attention of each row sees only this row
and its prefix. Imports torch at import time.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache

from rerank.io.forks import ForkLock
from rerank.lm.forward_pass import OutputHead, PreallocatedLayer, call_forward, make_kv_cache, temporary_settings
from rerank.lm.grouped_attention import (
    FEW,
    grouped_attention_forward,
    has_full_attention,
    on_cpu,
    supports_grouped_attention,
)
from rerank.lm.model_process import is_split

#: Default limit of a cache in bytes: in bfloat16, enough for 46,000 tokens of SmolLM2-135M or 8,000 tokens of a model
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
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


#: Floating-point operations that an accelerator computes while it reads a byte of its memory (A100: 153, H100: 295).
_OPERATIONS_PER_BYTE = 200

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
    """A cache of the prefixes of prompts, of at most ``limit`` bytes, for a model that `supports_prefixes`.

    Above the limit, the least recently used segments are dropped. A prefix is always computed in the same way: in a
    batch of one row, on top of the prefix that it extends. Its values are therefore bit-identical, whatever the cache
    contains.
    """

    def __init__(self, model: Any, limit: int = DEFAULT_LIMIT) -> None:
        self._model, self._limit = model, limit
        self._segments: OrderedDict[bytes, PrefixSegment] = OrderedDict()  # the most recently used one is the last
        self._size = self._weights = 0  # bytes of all segments, and a hash of the weights of the model
        self._lock = ForkLock()

    def load(self, prompts: Sequence[Sequence[int]], plan: Sequence[Sequence[int]]) -> list[CachedPrefix]:
        """Return the planned prefix of each prompt in a batch, from the cache or newly computed.

        ``plan`` contains the lengths of the prefixes of each prompt, in increasing order
        (`rerank.lm.local_tasks`).
        """
        # Drop all if the model was trained, or its weights were replaced, since the last batch. A parameter that is
        # overwritten has another version, and one that is replaced has another address.
        parameters = self._model.parameters()
        weights = hash(tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in parameters))
        if weights != self._weights:
            self.clear()
        self._weights = weights
        batch: dict[bytes, PrefixSegment] = {}  # since the cache may drop segments that the batch still needs
        with temporary_settings(self._model), OutputHead(self._model) as head:
            head.token_ids = [0]  # no logits are needed
            return [self._load_prefix(prompt, ends, batch) for prompt, ends in zip(prompts, plan, strict=True)]

    @property
    def is_empty(self) -> bool:
        return not self._segments

    def clear(self) -> None:
        with self._lock.lock:
            self._segments, self._size = OrderedDict(), 0

    def _find(self, key: bytes) -> PrefixSegment | None:
        with self._lock.lock:
            if key in self._segments:
                self._segments.move_to_end(key)
            return self._segments.get(key)

    def _store(self, key: bytes, segment: PrefixSegment) -> None:
        with self._lock.lock:
            if segment.size > self._limit or key in self._segments:
                return
            self._segments[key] = segment
            self._size += segment.size
            while self._size > self._limit:
                self._size -= self._segments.popitem(last=False)[1].size

    def _load_prefix(
        self, prompt: Sequence[int], ends: Sequence[int], batch: dict[bytes, PrefixSegment]
    ) -> CachedPrefix:
        segments: list[PrefixSegment] = []
        start = reused = 0
        for end, key in zip(ends, _keys_of(prompt, ends), strict=True):
            segment = batch.get(key) or self._find(key)
            if segment is None:
                segment = self._extend(segments, start, prompt[start:end])
                self._store(key, segment)
            else:
                reused += end - start
            batch[key] = segment
            segments.append(segment)
            start = end
        return CachedPrefix(start, tuple(segments), reused)

    def _extend(self, segments: Sequence[PrefixSegment], start: int, ids: Sequence[int]) -> PrefixSegment:
        """Compute the keys and values of the tokens ``ids``, which follow a prefix of ``start`` tokens."""
        padding = round_pass_length(len(ids)) - len(ids) if on_cpu(self._model) else 0
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


def reuse_pays(model: Any, lengths: Sequence[int], ends: Sequence[int]) -> bool:
    """Return whether a batch costs less with its prefixes, of ``ends`` tokens, than without, given its prompt lengths.

    This is false only on an accelerator, for equally long prompts of a model without `rerank.lm.grouped_attention`:
    without prefixes, they need no mask, so that flash attention computes half of the scores. On top of prefixes, all
    scores are computed, every head reads the mask, and keys and values are copied for every head.
    """
    if on_cpu(model) or supports_grouped_attention(model) or len(set(lengths)) > 1:
        return True
    config = model.config.get_text_config()
    heads = config.num_hidden_layers * config.num_attention_heads  # of all layers
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    saved = lost = 0.0
    for prompt, end in zip(lengths, ends, strict=True):
        scores = (prompt - end) * prompt
        saved += 2 * model.num_parameters(exclude_embeddings=True) * end
        moved = (
            heads * 2 * (4 * size * prompt + scores)
        )  # bytes in 16 bits: keys and values written and read, mask read
        lost += heads * 4 * size * (scores - prompt**2 / 2) + _OPERATIONS_PER_BYTE * moved
    return saved > lost


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

    Logits are computed for the ``last`` positions. New tokens do not attend to the ``padding`` tokens after them.
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


_Ids = Sequence[int]
#: Name under which the functions are registered in the attention interface of transformers.
NAME = "rerank_packed"


#: The sequence that a forward pass processes: the span of each row in the sequence (tokens after the last row are
#: padding), the cached prefix of each row, and the empty KV cache to fill with the rows, if any.
_SEQUENCE: ContextVar[tuple[list[tuple[int, int]], Sequence[CachedPrefix], Cache | None]] = ContextVar("sequence")


def packed_attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute causal attention within each row and its prefix, with the signature that transformers expects.

    The batch of 1 contains the tokens of all rows: queries have the shape (1, heads, tokens, head size), keys and
    values (1, key-value heads, tokens, head size). The output has the shape (1, tokens, heads, head size).
    """
    layer, (spans, prefixes, cache) = module.layer_idx, _SEQUENCE.get()
    out = torch.zeros_like(query.transpose(1, 2))
    all_keys, all_values = [], []
    for (start, end), prefix in zip(spans, prefixes, strict=True):
        own = (slice(None), slice(None), slice(start, end))
        keys = torch.cat([*(segment.keys[layer] for segment in prefix.segments), key[own]], dim=2)
        values = torch.cat([*(segment.values[layer] for segment in prefix.segments), value[own]], dim=2)
        length, key_count = end - start, keys.shape[2]
        # Without a mask, `grouped_attention_forward` is causal, with the last token at the last key, except for at most
        # FEW tokens after a prefix, which it takes for a decoding step, where each may attend to all keys.
        few = length <= FEW and length != key_count
        visible = query.new_ones(1, 1, length, key_count, dtype=torch.bool) if few else None
        mask = None if visible is None else visible.tril(key_count - length)
        found, _ = grouped_attention_forward(module, query[own], keys, values, mask, scaling, **kwargs)
        out[:, start:end] = found
        all_keys.append(keys)
        all_values.append(values)
    if cache is not None:
        # Rows of shape (1, key-value heads, tokens, head size) are padded on the left to the same length.
        width = max(row.shape[2] for row in all_keys)
        padded = []
        for rows in (all_keys, all_values):
            batch = rows[0].new_zeros(len(rows), rows[0].shape[1], width, rows[0].shape[3])
            for target, row in zip(batch, rows, strict=True):
                target[:, width - row.shape[2] :] = row[0]
            padded.append(batch)
        cache.layers[layer].update(*padded)
    return out, None


def compute_packed_logits(
    model: Any, rows: Sequence[_Ids], prefixes: Sequence[CachedPrefix], last: Sequence[int], cache: Cache | None = None
) -> list[Tensor]:
    """Compute the logits at the ``last`` positions of each row, with the rows processed as one sequence.

    The model must be supported by `rerank.lm.grouped_attention`, on any device. Rows include their prefixes. An empty
    KV cache is filled with the rows, padded on the left. For each row, the result is float32 logits of shape (last,
    tokens of the head).
    """
    rests = [list(row[prefix.length :]) for row, prefix in zip(rows, prefixes, strict=True)]
    spans = list(pairwise(accumulate(map(len, rests), initial=0)))
    positions = [
        position for row, prefix in zip(rows, prefixes, strict=True) for position in range(prefix.length, len(row))
    ]
    needed = [position for (_, end), count in zip(spans, last, strict=True) for position in range(end - count, end)]
    padding = [0] * (round_pass_length(len(positions)) - len(positions) if on_cpu(model) else 0)
    AttentionInterface.register(NAME, packed_attention_forward)
    AttentionMaskInterface.register(NAME, lambda **_: None)
    token = _SEQUENCE.set((spans, prefixes, cache))
    try:
        with temporary_settings(model, attention=NAME):
            output = call_forward(
                model,
                input_ids=torch.tensor([[*chain.from_iterable(rests), *padding]], device=model.device),
                position_ids=torch.tensor([[*positions, *padding]], device=model.device),
                use_cache=False,
                logits_to_keep=needed,  # a list, since the last hidden states may be on another device than the ids
            )
    finally:
        _SEQUENCE.reset(token)
    return list(output.logits[0].float().split(list(last)))


def compute_padded_logits(
    model: Any, rows: Sequence[_Ids], prefixes: Sequence[CachedPrefix], last: Sequence[int], pad: int
) -> list[Tensor]:
    """Compute the logits at the ``last`` positions of each row, in a padded batch on top of a padded KV cache.

    This works on any device. Rows include their prefixes. ``pad`` may be any token, since padding is masked. For
    each row, the result is float32 logits of shape (last, vocabulary).
    """
    rests = [list(row[prefix.length :]) for row, prefix in zip(rows, prefixes, strict=True)]
    cached, width = max(prefix.length for prefix in prefixes), max(map(len, rests))
    device = model.device
    mask = torch.tensor(
        [
            [1] * prefix.length + [0] * (cached - prefix.length + width - len(rest)) + [1] * len(rest)
            for rest, prefix in zip(rests, prefixes, strict=True)
        ],
        device=device,
    )
    cache = make_kv_cache(model.config, cached + width)
    merge_prefixes(prefixes, cache)
    output = call_forward(
        model,
        cache=cache,
        input_ids=torch.tensor([[pad] * (width - len(rest)) + rest for rest in rests], device=device),
        attention_mask=mask,
        # RoPE positions count real tokens only, not the padding between prefix and remainder.
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, cached:],
        use_cache=True,
        logits_to_keep=max(last),
    )
    return [logits[-count:].float() for logits, count in zip(output.logits, last, strict=True)]


def merge_prefixes(prefixes: Sequence[CachedPrefix], cache: Cache) -> None:
    """Copy the prefix of each row in a batch to an empty KV cache; shorter prefixes are padded at their ends."""
    width = max(prefix.length for prefix in prefixes)
    some = next(prefix.segments[0] for prefix in prefixes if prefix.segments)
    is_common = len({tuple(map(id, prefix.segments)) for prefix in prefixes}) == 1
    layers: list[Any] = cache.layers
    for number, layer in enumerate(layers):
        merged = []
        for name in ("keys", "values"):
            like = getattr(some, name)[number]
            if is_common:  # two kernels instead of two per row
                pieces = [getattr(segment, name)[number] for segment in prefixes[0].segments]
                merged.append(torch.cat(pieces, dim=2).expand(len(prefixes), -1, -1, -1))
                continue
            rows = like.new_zeros(len(prefixes), like.shape[1], width, like.shape[3])
            for row, prefix in zip(rows, prefixes, strict=True):
                if prefix.segments:
                    pieces = [getattr(segment, name)[number][0] for segment in prefix.segments]
                    row[:, : prefix.length] = torch.cat(pieces, dim=1)
            merged.append(rows)
        layer.update(*merged)
