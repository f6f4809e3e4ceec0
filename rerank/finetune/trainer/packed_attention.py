"""Attention for training: texts that are packed in one row see themselves alone, and chosen rows are watched.

A function of transformers' attention interface. Each text is one causal call of torch's kernel, so packing needs no
mask of length squared; of a watched layer, only the rows that ask are computed a second time, with gradients. Imports
torch at its top.
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

#: Name under which transformers finds it.
NAME = "rerank_training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Whose attention to what is wanted.

    Attributes:
        text: Which of the packed texts.
        rows: First and past-last row of the packed row that ask.
        owner: (keys,) of each key of the text, the document that it belongs to; ``documents`` for none.
        documents: How many documents.
    """

    text: int
    rows: tuple[int, int]
    owner: Tensor
    documents: int


@dataclass(kw_only=True)
class Packing:
    """One packed row.

    Attributes:
        texts: First and past-last place of each text.
        looks: What is watched.
        heads: Layer -> heads that are watched in it.
        seen: (look, layer) -> (heads, documents), the mean over rows of the attention that each document gets.
    """

    texts: Sequence[tuple[int, int]]
    looks: Sequence[Look] = ()
    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    #: No dict: FSDP makes new ones of the containers that it finds among a layer's arguments, and what is seen would be
    #: lost with the copy.
    seen: UserDict[tuple[int, int], Tensor] = field(default_factory=UserDict)


def register() -> None:
    """Make the function known to transformers; doing it again changes nothing."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, lambda **asked: None)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: The attention layer.
        query: (1, heads, length, head size).
        key: (1, key-value heads, length, head size).
        value: Likewise.
        attention_mask: None.
        scaling: Factor of the scores.
        dropout: Of the weights, while training.
        more: ``packing``, which the model was called with and handed on; ``sliding_window``, ``softcap``, ``s_aux``,
            and what only transformers' own function knows.

    Returns:
        (1, length, heads, head size), and None for the weights.

    Raises:
        UsageError: The layer makes weights of its scores in a way of its own.
    """
    _check(module, more)
    now: Packing = more["packing"]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    window = more.get("sliding_window")
    out = []
    for start, end in now.texts:
        asks = query[:, :, start:end]
        keys, values = (states[:, :, start:end].repeat_interleave(groups, dim=1) for states in (key, value))
        seen = _band(end - start, window, query.device) if window and end - start > window else None
        out.append(scaled_dot_product_attention(asks, keys, values, seen, dropout, seen is None, scale=scale))
    for at, look in enumerate(now.looks if module.layer_idx in now.heads else ()):
        heads = list(now.heads[module.layer_idx])
        bounds = now.texts[look.text]
        found = _watched(query[0, heads], key[0, [h // groups for h in heads]], look, bounds, scale, window)
        # A layer whose activations are computed again for the backward pass comes here twice; the first time counts.
        now.seen.setdefault((at, module.layer_idx), found)
    return torch.cat(out, dim=2).transpose(1, 2), None


def _check(module: Any, more: Mapping[str, Any]) -> None:
    if "packing" not in more:
        raise UsageError(
            f"{type(module).__name__} of this model is not told which texts lie in a row",
            expected="a model, and an adapter without a network of its own, that hand on what they are called with",
            remedy="Set batch_size = 1 in [training] and use losses of tokens or logits, or take another adapter",
        )
    if more.get("softcap") is not None or more.get("s_aux") is not None or more.get("position_bias") is not None:
        raise UsageError(
            f"{type(module).__name__} caps its attention scores, has sinks or adds biases to them",
            expected="plain softmax attention for packed texts and attention losses",
            remedy="Set batch_size = 1 in [training] and use losses of tokens or logits",
        )


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """(length, length), True for the last ``window`` keys up to the row's own."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen.triu(1 - window)


def _watched(
    query: Tensor, key: Tensor, look: Look, bounds: tuple[int, int], scale: float, window: int | None
) -> Tensor:
    """(heads, documents) mean attention of the look's rows, in float32.

    Args:
        query: (heads, length, head size).
        key: Likewise, a key head for each query head.
        look: What is watched.
        bounds: First and past-last place of its text.
        scale: Factor of the scores.
        window: How many keys up to its own a row sees; None for all.
    """
    first, last = look.rows
    start, _ = bounds
    keys = key[:, start:last].float()  # what comes behind the last row is seen by none
    with torch.autocast(query.device.type, enabled=False):  # as the judge computes it
        scores = query[:, first:last].float() @ keys.transpose(1, 2) * scale
    unseen = torch.ones(last - first, last - start, dtype=torch.bool, device=query.device).triu(1 + first - start)
    if window:
        unseen |= torch.ones_like(unseen).tril(first - start - window)
    weights = scores.masked_fill(unseen, -torch.inf).softmax(dim=-1).mean(dim=1)
    summed = weights.new_zeros(len(weights), look.documents + 1)
    return summed.index_add(1, look.owner[: last - start], weights)[:, :-1]
