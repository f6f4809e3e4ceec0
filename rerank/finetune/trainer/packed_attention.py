"""Attention for rows packed with several texts: tokens attend to their own text; attention to passages is recorded.

`compute_packed` is registered with transformers' attention interface. Each text is one causal call of torch's kernel,
so packing needs no mask of quadratic size. Attention rows to record are computed a second time, with gradients. Imports
torch.
"""

from collections import UserDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from rerank.errors import UsageError
from rerank.lm.grouped_attention import takes_grouped_heads

#: Name of the function in transformers' attention interface.
ATTENTION_NAME = "rerank_training"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRegion:
    """The attention rows of one text that are recorded, and the documents that the keys of the text belong to."""

    text: int  #: Index of the text in the packed row.
    rows: tuple[int, int]  #: Start and end (exclusive), in the packed row, of the queries whose attention is recorded.
    #: Index of the document that each key of the text belongs to, shape (keys,); the value ``documents`` marks keys
    #: outside of all documents.
    owner: Tensor
    documents: int  #: Number of documents.


@dataclass(kw_only=True)
class PackedTrainingRow:
    """Layout of one packed row, and the attention recorded while the model processes it."""

    texts: Sequence[tuple[int, int]]  #: Start and end (exclusive) of each text.
    regions: Sequence[AttentionRegion] = ()  #: Regions whose attention is recorded.
    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)  #: Layer -> indices of its recorded heads.
    #: (index of the region, layer) -> attention that each document receives in each head, averaged over the rows of the
    #: region, shape (heads, documents). A UserDict instead of a dict, because FSDP passes copies of builtin containers
    #: to a layer, and values that are recorded in a copy would be lost.
    recorded: UserDict[tuple[int, int], Tensor] = field(default_factory=UserDict)


def register() -> None:
    """Register `compute_packed` with transformers; repeated calls have no effect."""
    AttentionInterface.register(ATTENTION_NAME, compute_packed)
    AttentionMaskInterface.register(ATTENTION_NAME, lambda **_: None)


def compute_packed(
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

    The queries have the shape (1, heads, length, head size), keys and values (1, key-value heads, length, head size),
    and the output (1, length, heads, head size). The mask is not used. ``scaling`` is by default 1 / sqrt(head size).
    ``more`` has ``packing``, the `PackedTrainingRow` of the model, and ``sliding_window``, the number of keys per
    position (0 or None for all earlier keys).
    """
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
    row: PackedTrainingRow = more["packing"]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]  # query heads per key-value head
    window: int = more.get("sliding_window") or 0
    out = _attend_per_text(query, key, value, row.texts, scale, dropout, window)
    for index, region in enumerate(row.regions if module.layer_idx in row.heads else ()):
        heads = list(row.heads[module.layer_idx])
        keys, bounds = key[0, [head // groups for head in heads]], row.texts[region.text]
        shares = _document_shares(query[0, heads], keys, region, bounds, scale, window)
        # With activation checkpointing, a layer runs again in the backward pass; the first result is kept.
        row.recorded.setdefault((index, module.layer_idx), shares)
    return out.transpose(1, 2), None


def _attend_per_text(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    texts: Sequence[tuple[int, int]],
    scale: float,
    dropout: float,
    window: int,
) -> Tensor:
    """Return the output of shape (1, heads, length, head size), from one call of torch's kernel per text.

    The kernel groups the heads itself: copies of keys and values for every query head would take several times their
    memory, and their gradients would have to be added up. With a mask, torch has no fused kernel on a GPU that groups
    heads; it would store all scores (`takes_grouped_heads`).
    """
    dtype = value.dtype  # under autocast, queries and keys may be float32
    if query.device.type == "cpu" and dtype is torch.bfloat16:  # the backward pass of torch's kernel is slow there
        query, key, value = query.float(), key.float(), value.float()
    elif query.device.type == "cuda":  # as autocast would do in the kernel, which is too late for `takes_grouped_heads`
        query, key = query.to(dtype), key.to(dtype)
    groups = query.shape[1] // key.shape[1]  # query heads per key-value head
    out = []
    with torch.autocast("cpu", enabled=False):
        for start, end in texts:
            queries, keys, values = (states[:, :, start:end] for states in (query, key, value))
            mask, grouped = None, groups > 1 and takes_grouped_heads(queries, keys, values)
            if 0 < window < end - start:  # row i attends to the last `window` keys up to and including position i
                shape = (end - start, end - start)
                mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril().triu(1 - window)
                grouped = False
            if not grouped:
                keys, values = (states.repeat_interleave(groups, dim=1) for states in (keys, values))
            causal: Any = {"is_causal": mask is None, "enable_gqa": grouped, "scale": scale}
            out.append(scaled_dot_product_attention(queries, keys, values, mask, dropout, **causal))
    return torch.cat(out, dim=2).to(dtype)


def _document_shares(
    query: Tensor, key: Tensor, region: AttentionRegion, bounds: tuple[int, int], scale: float, window: int
) -> Tensor:
    """Compute the attention that documents receive, averaged over the rows of a region: (heads, documents), in float32.

    Queries and keys have the shape (heads, length, head size), with key-value heads repeated for each query head;
    ``bounds`` are those of the text, ``window`` is the size of a sliding window, or 0 for full causal attention.
    """
    first, last = region.rows
    start, _ = bounds
    keys = key[:, start:last].float()  # no row attends to later keys
    with torch.autocast(query.device.type, enabled=False):  # in float32, as in the attention judge
        scores = query[:, first:last].float() @ keys.transpose(1, 2) * scale
    # (rows, keys): row i has position first + i, so it attends to the keys up to first + i - start of its text.
    masked = torch.ones(last - first, last - start, dtype=torch.bool, device=query.device).triu(1 + first - start)
    if window:
        masked |= torch.ones_like(masked).tril(first - start - window)
    weights = scores.masked_fill(masked, -torch.inf).softmax(dim=-1).mean(dim=1)  # (heads, keys)
    # Sum over the keys of each document; the last column collects keys outside of all documents.
    summed = weights.new_zeros(len(weights), region.documents + 1)
    return summed.index_add(1, region.owner[: last - start], weights)[:, :-1]
