"""Attention for packed training rows: every text attends to itself only, and attention to passages is recorded.

The function is registered with transformers' attention interface. Each text is one causal call of torch's kernel, so
packing needs no mask of quadratic size. In layers with recorded heads, the rows of interest are computed a second time,
with gradients. Imports torch.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from rerank.errors import UsageError

#: Name of the function in transformers' attention interface.
ATTENTION_NAME = "rerank_training"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRegion:
    """Attention rows of one text, and the documents that its keys belong to.

    Attributes:
        text: Index of the text in the packed row.
        rows: First and past-last position, in the packed row, of the queries whose attention is recorded.
        owner: (keys,) index of the document that each key of the text belongs to; ``documents`` if there is none.
        documents: Number of documents.
    """

    text: int
    rows: tuple[int, int]
    owner: Tensor
    documents: int


@dataclass(kw_only=True)
class PackedRow:
    """Layout of one packed row, and the attention recorded while the model processes it.

    Attributes:
        texts: First and past-last position of each text.
        regions: Regions whose attention is recorded.
        heads: Layer -> heads that are recorded.
        recorded: (region, layer) -> (heads, documents) attention that each document receives, averaged over rows.
    """

    texts: Sequence[tuple[int, int]]
    regions: Sequence[AttentionRegion] = ()
    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    #: Not a dict: FSDP copies builtin containers among the arguments of a layer, and the copy would be lost.
    recorded: UserDict[tuple[int, int], Tensor] = field(default_factory=UserDict)


def register_packed_attention() -> None:
    """Register the function with transformers; repeated calls have no effect."""
    AttentionInterface.register(ATTENTION_NAME, compute_packed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, lambda **_: None)


def compute_packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of one layer over a packed row, with the signature of transformers' attention interface.

    Args:
        module: The attention layer.
        query: (1, heads, length, head size).
        key: (1, key-value heads, length, head size).
        value: (1, key-value heads, length, head size).
        attention_mask: Not used.
        scaling: Factor of the attention scores; 1 / sqrt(head size) if None.
        dropout: Dropout probability of the attention weights.
        more: ``packing``, the `PackedRow` that the model was called with; ``sliding_window``; and further arguments of
            transformers.

    Returns:
        (1, length, heads, head size), and None instead of the weights.

    Raises:
        UsageError: The layer does not use plain softmax attention, or does not pass ``packing`` on.
    """
    _check_packed_layer(module, more)
    row: PackedRow = more["packing"]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]  # query heads per key-value head
    window = more.get("sliding_window")
    out = []
    for start, end in row.texts:
        queries = query[:, :, start:end]
        keys, values = (states[:, :, start:end].repeat_interleave(groups, dim=1) for states in (key, value))
        mask = (
            _packed_sliding_window_mask(end - start, window, query.device) if window and end - start > window else None
        )
        out.append(scaled_dot_product_attention(queries, keys, values, mask, dropout, mask is None, scale=scale))
    for index, region in enumerate(row.regions if module.layer_idx in row.heads else ()):
        heads = list(row.heads[module.layer_idx])
        bounds = row.texts[region.text]
        keys_of_heads = key[0, [head // groups for head in heads]]
        shares = _packed_passage_attention(query[0, heads], keys_of_heads, region, bounds, scale, window)
        # With activation checkpointing, a layer runs again in the backward pass; the first result is kept.
        row.recorded.setdefault((index, module.layer_idx), shares)
    return torch.cat(out, dim=2).transpose(1, 2), None


def _check_packed_layer(module: Any, more: Mapping[str, Any]) -> None:
    if "packing" not in more:
        raise UsageError(
            f"{type(module).__name__} of this model does not receive the layout of the packed row",
            expected="a model that passes keyword arguments on to its layers, and an adapter without its own network",
            remedy="Set batch_size = 1 in [training] and use losses on tokens or logits, or use another adapter",
        )
    if more.get("softcap") is not None or more.get("s_aux") is not None or more.get("position_bias") is not None:
        raise UsageError(
            f"{type(module).__name__} uses capped attention scores, attention sinks or position biases",
            expected="plain softmax attention for packed texts and attention losses",
            remedy="Set batch_size = 1 in [training] and use losses on tokens or logits",
        )


def _packed_sliding_window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Return a (length, length) mask that is True for the last ``window`` keys up to the query position."""
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return causal.triu(1 - window)


def _packed_passage_attention(
    query: Tensor, key: Tensor, region: AttentionRegion, bounds: tuple[int, int], scale: float, window: int | None
) -> Tensor:
    """Compute the (heads, documents) attention that documents receive, averaged over the rows of a region, in float32.

    Args:
        query: (heads, length, head size).
        key: (heads, length, head size), with key-value heads repeated per query head.
        region: Rows and documents.
        bounds: First and past-last position of the text.
        scale: Factor of the attention scores.
        window: Size of a sliding window; None for full causal attention.
    """
    first, last = region.rows
    start, _ = bounds
    keys = key[:, start:last].float()  # no row attends to later keys
    with torch.autocast(query.device.type, enabled=False):  # float32, as the attention judge computes it
        scores = query[:, first:last].float() @ keys.transpose(1, 2) * scale
    # (rows, keys): row i has position first + i, so it attends to the keys up to first + i - start of its text.
    masked = torch.ones(last - first, last - start, dtype=torch.bool, device=query.device).triu(1 + first - start)
    if window:
        masked |= torch.ones_like(masked).tril(first - start - window)
    weights = scores.masked_fill(masked, -torch.inf).softmax(dim=-1).mean(dim=1)  # (heads, keys)
    # Sum over the keys of each document; the last column collects keys outside of all documents.
    summed = weights.new_zeros(len(weights), region.documents + 1)
    return summed.index_add(1, region.owner[: last - start], weights)[:, :-1]
