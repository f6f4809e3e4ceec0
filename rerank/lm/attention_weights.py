"""Capture the attention weights of a few query tokens in a forward pass that ends after the last layer needed.

Queries are attention queries here, not search queries. The capture is an attention function for transformers, so it
works for every model that uses transformers' attention interface. Imports torch at import time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rerank.errors import UsageError, ensure
from rerank.lm import cpu_attention

#: Name under which the functions are registered in the attention interface of transformers.
NAME = "rerank_attention_weights"

#: Maximum number of float32 attention weights computed at a time. They take 4 MiB, and so does each intermediate result
#: between scores and weights.
_CHUNK = 1 << 20


class EndOfCapture(Exception):
    """Raised in the last layer that is needed, to end the forward pass."""


@dataclass(kw_only=True)
class AttentionCapture:
    """The layers, heads and query tokens whose attention weights a forward pass captures."""

    last: int  # index of the layer in which the forward pass ends
    cpu_kernel: bool  # whether `rerank.lm.cpu_attention` supports the model
    skip: int = 0  # number of the first tokens of the pass that are excluded from the mean
    #: Mapping from each layer to its heads to capture. If empty, the pass only fills the KV cache.
    heads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    #: Function that is called with the index of a layer and its weights, averaged over query tokens, of shape (heads,
    #: keys). In layers with a sliding window, the earliest keys may be missing.
    on_weights: Callable[[int, torch.Tensor], None] = lambda layer, weights: None


@dataclass(frozen=True, slots=True)
class _WeightFormula:
    """The function that converts attention scores to attention weights."""

    scale: float  # factor by which the scores are multiplied
    softcap: float | None  # the constant c in c tanh(score / c), as in Gemma 2; None for no softcap
    #: Scores, of shape (heads,), of a virtual key that receives weight but has no value, as in gpt-oss; None for no
    #: sinks.
    sinks: torch.Tensor | None

    @property
    def is_standard(self) -> bool:
        return self.softcap is None and self.sinks is None

    def weights(self, scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Return the weights, of shape (heads, queries, keys). With sinks, the weights of a query sum to less than 1.

        Scores, of the same shape and scaled, are overwritten; ``visible``, (1, queries, keys), is true if the
        query sees the key.
        """
        if self.softcap is not None:
            scores = scores.div_(self.softcap).tanh_().mul_(self.softcap)
        scores = scores.masked_fill_(~visible, -torch.inf)
        if self.sinks is None:
            return scores.softmax(dim=-1)
        # The sink is an additional column in the softmax and is dropped afterwards.
        column = self.sinks.float().view(-1, 1, 1).expand(-1, scores.shape[1], 1)
        return torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]


_CAPTURE: ContextVar[AttentionCapture] = ContextVar("capture")


@contextmanager
def capture_attention(capture: AttentionCapture) -> Iterator[None]:
    """Capture attention weights in the forward pass inside the ``with`` block, and end the pass early."""
    token = _CAPTURE.set(capture)
    try:
        yield
    except EndOfCapture:
        return
    finally:
        _CAPTURE.reset(token)
    raise UsageError(
        f"The attention weights of layer {capture.last} of this model are not accessible",
        expected="a decoder whose layers use transformers' attention interface; recurrent layers (Mamba, linear "
        "attention), encoders and models with their own attention code do not",
        remedy="Use another model, or another method",
    )


def register_attention_weights() -> None:
    """Register this module's attention and mask functions with transformers; repeated calls have no effect."""
    AttentionInterface.register(NAME, capture_attention_forward)
    AttentionMaskInterface.register(NAME, make_capture_mask)


def make_capture_mask(**arguments: Any) -> torch.Tensor | None:
    """Return the mask for `capture_attention_forward`. It is never None if weights are captured."""
    capture = _CAPTURE.get()
    if capture.cpu_kernel and not capture.heads:
        return cpu_attention.make_padding_mask(**arguments)
    # Weights are computed from the mask, so it must be explicit: with a KV cache, the first query sees many keys.
    mask: torch.Tensor | None = sdpa_mask(**arguments | {"allow_is_causal_skip": not capture.heads})
    return mask


def capture_attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention for one prompt and capture weights, with the signature that transformers expects.

    Shapes are those of `rerank.lm.cpu_attention.cpu_attention_forward` for a batch of 1. Among the further
    arguments are ``softcap`` (Gemma 2) and ``s_aux`` (sinks of gpt-oss).
    """
    capture = _CAPTURE.get()
    ensure(
        kwargs.get("position_bias") is None,
        f"{type(module).__name__} adds position biases to its attention scores",
        expected="a model with rotary position embeddings",
        remedy="Use another model, or another method",
    )
    ensure(
        getattr(module, "is_causal", True) is not False,
        f"{type(module).__name__} also attends to later tokens",
        expected="a causal decoder",
        remedy="Use another model, or another method",
    )
    layer: int = module.layer_idx
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    formula = _WeightFormula(scale, kwargs.get("softcap"), kwargs.get("s_aux"))
    if capture.heads:
        # All heads are computed, because later layers need the output; the callback gets the selected rows.
        out, weights = _in_chunks((query, key, value), attention_mask, formula, capture.skip)
        if layer in capture.heads:
            capture.on_weights(layer, weights[list(capture.heads[layer])])
    if layer == capture.last:
        raise EndOfCapture
    if capture.heads:
        return out.transpose(1, 2), None
    if capture.cpu_kernel:
        return cpu_attention.cpu_attention_forward(module, query, key, value, attention_mask, scaling, **kwargs)
    if formula.is_standard:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # No standard kernel supports softcaps or sinks, so the output is computed here, and the weights are discarded.
    return _in_chunks((query, key, value), attention_mask, formula, None)[0].transpose(1, 2), None


def _in_chunks(
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    formula: _WeightFormula,
    skip: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention and its mean weights in float32, a chunk of query tokens at a time.

    The states are query, (1, heads, queries, head size), and key and value, (1, key-value heads, keys, head size).
    The mask, (1, 1, queries, keys), is true if a key is visible; None stands for causal attention without a KV
    cache. The first ``skip`` queries are excluded from the mean, which is not needed if this is None. The output
    has the shape (1, heads, queries, head size), and the weights, averaged over queries, (heads, keys).
    """
    query, key, value = states
    _, heads, length, size = query.shape
    # Grouped-query attention: a group is one key-value head, shared by heads / groups query heads.
    groups, keys = key.shape[1], key.shape[2]
    columns, values = key[0].float().transpose(1, 2), value[0]  # (groups, head size, keys), (groups, keys, head size)
    out = query.new_empty(1, heads, length, value.shape[-1])
    total = torch.zeros(heads, keys, device=query.device)
    # Queries per chunk: a (heads, chunk, keys) block of weights has at most _CHUNK entries.
    step = max(1, _CHUNK // (heads * keys))
    for start in range(0, length, step):
        # Queries are scaled before the product, in float32: float16 scores could overflow.
        rows = query[0, :, start : start + step].float() * formula.scale
        # Heads of a group share its keys: (groups, heads per group * chunk, keys) -> (heads, chunk, keys).
        scores = torch.bmm(rows.reshape(groups, -1, size), columns).view(heads, -1, keys)
        # (1, chunk, keys): true for the keys that a query sees. Without a mask, query i sees the keys 0 to i.
        rows_of_chunk = scores.shape[1]
        visible = (
            torch.ones(1, rows_of_chunk, keys, dtype=torch.bool, device=query.device).tril(start)
            if mask is None
            else mask[0, :, start : start + rows_of_chunk]
        )
        weights = formula.weights(scores, visible)
        # The first ``skip`` queries are excluded; max(0, skip - start) of them are in this chunk.
        if skip is not None:
            total += weights[:, max(0, skip - start) :].sum(dim=1)
        # (groups, heads per group * chunk, keys): one product with the values per group.
        packed = weights.to(value.dtype).reshape(groups, -1, keys)
        out[0, :, start : start + step] = torch.bmm(packed, values).view(heads, -1, value.shape[-1])
    # 1/|I_q| sum over the tail I_q, the inner sum of equation 1 of ICR (arXiv 2410.02642).
    return out, total / max(1, length - (skip or 0))
