"""Compute logits at the ends of prompts whose prefixes are cached, by processing only the remaining tokens.

Several prompts (rows) are concatenated into one sequence, so that their tokens share the matrix products of a forward
pass. The attention of each row sees only this row and its prefix. Imports torch at import time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache

from rerank.lm.cpu_attention import FEW, cpu_attention_forward
from rerank.lm.forward_pass import call_forward
from rerank.lm.kv_cache import make_kv_cache
from rerank.lm.prefix_cache import CachedPrefix, PrefixSegment, round_pass_length
from rerank.lm.temporary_settings import TemporarySettings

#: Name under which the functions are registered in the attention interface of transformers.
NAME = "rerank_packed"


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One of the prompts (rows) that are concatenated into one sequence."""

    start: int  # position of the row's first token in the sequence
    end: int  # position after the row's last token
    #: The KV cache of the row's prefix, in consecutive segments; empty for no prefix.
    segments: Sequence[PrefixSegment]


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """Prompts (rows) that a model processes as one concatenated sequence."""

    rows: Sequence[PackedRow]  # the rows; tokens after the last row are padding
    #: Function that is called in each layer with the index of the layer, and with the keys and the values of each row,
    #: including its prefix, of shape (1, key-value heads, tokens, head size).
    on_layer: Callable[[int, list[torch.Tensor], list[torch.Tensor]], None] = lambda layer, keys, values: None


_SEQUENCE: ContextVar[PackedSequence] = ContextVar("sequence")


@contextmanager
def _pack(sequence: PackedSequence) -> Iterator[None]:
    """Treat the input of forward passes inside the ``with`` block as concatenated rows instead of one sequence."""
    token = _SEQUENCE.set(sequence)
    try:
        yield
    finally:
        _SEQUENCE.reset(token)


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

    Args:
        query: Queries of all rows, of shape (1, heads, tokens, head size), after RoPE.
        key: Keys of all rows, of shape (1, key-value heads, tokens, head size), after RoPE.
        value: Values of all rows, of the same shape as ``key``.
        attention_mask: Always None.
        scaling: Factor by which the scores are multiplied; 1/sqrt(head size) if None.
        kwargs: Arguments passed on to `cpu_attention_forward`.

    Returns:
        The output, of shape (1, tokens, heads, head size), and None in place of attention weights.
    """
    layer, sequence = module.layer_idx, _SEQUENCE.get()
    out = torch.zeros_like(query.transpose(1, 2))
    all_keys, all_values = [], []
    for row in sequence.rows:
        own = (slice(None), slice(None), slice(row.start, row.end))
        keys = torch.cat([*(segment.keys[layer] for segment in row.segments), key[own]], dim=2)
        values = torch.cat([*(segment.values[layer] for segment in row.segments), value[own]], dim=2)
        length, key_count = row.end - row.start, keys.shape[2]
        # A mask is needed only if a few tokens follow a prefix.
        few = length <= FEW and length != key_count
        mask = torch.ones(1, 1, length, key_count, dtype=torch.bool).tril(key_count - length) if few else None
        found, _ = cpu_attention_forward(module, query[own], keys, values, mask, scaling, **kwargs)
        out[:, row.start : row.end] = found
        all_keys.append(keys)
        all_values.append(values)
    sequence.on_layer(layer, all_keys, all_values)
    return out, None


_Ids = Sequence[int]


def compute_packed_logits(
    model: Any, rows: Sequence[_Ids], prefixes: Sequence[CachedPrefix], last: Sequence[int], cache: Cache | None = None
) -> list[Tensor]:
    """Compute the logits at the last positions of each row, with the rows processed as one sequence.

    The model must be supported by `rerank.lm.cpu_attention`.

    Args:
        rows: Token ids of each row, including its prefix.
        last: Number of positions at the end of each row whose logits are needed.
        cache: An empty KV cache to fill with the rows, padded on the left; None for no cache.

    Returns:
        For each row, float32 logits of shape (last, tokens of the head).
    """
    rests = [list(row[prefix.length :]) for row, prefix in zip(rows, prefixes, strict=True)]
    spans = list(pairwise(accumulate(map(len, rests), initial=0)))
    packed = [PackedRow(start, end, prefix.segments) for (start, end), prefix in zip(spans, prefixes, strict=True)]
    positions = [
        position for row, prefix in zip(rows, prefixes, strict=True) for position in range(prefix.length, len(row))
    ]
    needed = [position for (_, end), count in zip(spans, last, strict=True) for position in range(end - count, end)]
    padding = [0] * (round_pass_length(len(positions)) - len(positions))
    sequence = (
        PackedSequence(packed) if cache is None else PackedSequence(packed, partial(_fill_cache_layer, cache.layers))
    )
    AttentionInterface.register(NAME, packed_attention_forward)
    AttentionMaskInterface.register(NAME, lambda **_: None)
    with TemporarySettings(model, attention=NAME), _pack(sequence):
        output = call_forward(
            model,
            input_ids=torch.tensor([[*chain.from_iterable(rests), *padding]]),
            position_ids=torch.tensor([[*positions, *padding]]),
            use_cache=False,
            logits_to_keep=torch.tensor(needed),
        )
    return list(output.logits[0].float().split(list(last)))


def _fill_cache_layer(layers: Sequence[Any], number: int, keys: list[Tensor], values: list[Tensor]) -> None:
    """Copy the keys and values of all rows, padded on the left, to an empty layer of a KV cache.

    The keys and values of a row have the shape (1, key-value heads, tokens, head size).
    """
    width = max(row.shape[2] for row in keys)
    padded = []
    for rows in (keys, values):
        batch = rows[0].new_zeros(len(rows), rows[0].shape[1], width, rows[0].shape[3])
        for target, row in zip(batch, rows, strict=True):
            target[:, width - row.shape[2] :] = row[0]
        padded.append(batch)
    layers[number].update(*padded)


def compute_padded_logits(
    model: Any, rows: Sequence[_Ids], prefixes: Sequence[CachedPrefix], last: Sequence[int], pad: int
) -> list[Tensor]:
    """Compute the logits at the last positions of each row, in a padded batch on top of a padded KV cache.

    This works on any device.

    Args:
        rows: Token ids of each row, including its prefix.
        last: Number of positions at the end of each row whose logits are needed.
        pad: Token id for padding, which may be any token, since padding is masked.

    Returns:
        For each row, float32 logits of shape (last, vocabulary).
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
    layers: list[Any] = cache.layers
    for number, layer in enumerate(layers):
        merged = []
        for name in ("keys", "values"):
            like = getattr(some, name)[number]
            rows = like.new_zeros(len(prefixes), like.shape[1], width, like.shape[3])
            for row, prefix in zip(rows, prefixes, strict=True):
                if prefix.segments:
                    pieces = [getattr(segment, name)[number][0] for segment in prefix.segments]
                    row[:, : prefix.length] = torch.cat(pieces, dim=1)
            merged.append(rows)
        layer.update(*merged)
