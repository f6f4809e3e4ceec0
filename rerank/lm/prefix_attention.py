"""Attention on a CPU for prompts that are processed as one sequence, each on top of its own cached prefix.

The rows of a batch are concatenated instead of padded. Rows of any length thus share the matrix products of a layer,
and little time is spent on padding. Only the attention is computed row by row: each row attends to its prefix and
itself.
This works for the models that `rerank.lm.cpu_attention` supports.

Imports torch at import time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from rerank.lm.cpu_attention import _FEW, cpu_attention_forward
from rerank.lm.prefix_store import PrefixSegment

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


def register_prefix_attention() -> None:
    """Register this module's attention and mask functions with transformers; repeated calls have no effect."""
    AttentionInterface.register(NAME, packed_attention_forward)
    AttentionMaskInterface.register(NAME, make_no_mask)


@contextmanager
def pack_sequence_into_rows(sequence: PackedSequence) -> Iterator[None]:
    """Treat the input of forward passes inside the ``with`` block as concatenated rows instead of one sequence."""
    token = _SEQUENCE.set(sequence)
    try:
        yield
    finally:
        _SEQUENCE.reset(token)


def make_no_mask(**_: Any) -> None:
    """Return None as the mask; called by transformers in place of its own mask function."""


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
        module: The attention layer.
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
        mask = _causal_prefix_mask(row.end - row.start, keys.shape[2])
        found, _ = cpu_attention_forward(module, query[own], keys, values, mask, scaling, **kwargs)
        out[:, row.start : row.end] = found
        all_keys.append(keys)
        all_values.append(values)
    sequence.on_layer(layer, all_keys, all_values)
    return out, None


def _causal_prefix_mask(length: int, keys: int) -> torch.Tensor | None:
    """Return the mask for `cpu_attention_forward`; None unless a few tokens follow a prefix.

    The mask has the shape (1, 1, length, keys).
    """
    if length > _FEW or length == keys:
        return None
    return torch.ones(1, 1, length, keys, dtype=torch.bool).tril(keys - length)
