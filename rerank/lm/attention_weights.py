"""Attention weights of a few queries, read off while a model runs, and an end to the run where no more is needed.

A function of transformers' attention interface, so it serves every model that goes through it; no modelling code is
copied. Imports torch at its top, so it is imported only when a model is there. Knows layers, heads and keys, not texts.
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

from rerank.errors import UsageError
from rerank.lm import cpu_attention

#: Name under which transformers finds it.
NAME = "rerank_watched"

#: Weights that exist at a time, in float32: 4 MiB, and as much again for each step from scores to weights.
_AT_A_TIME = 1 << 20


class Finished(Exception):
    """The last layer that matters has been reached."""


@dataclass(kw_only=True)
class Watch:
    """What one run of a model is to give.

    Attributes:
        last: The run ends in this layer.
        plain: Whether the model's attention is one that `_attention` computes.
        skip: Queries at the beginning of the block that do not count.
        wanted: Layer -> its heads that count; nothing is read off other layers. Empty: only keys and values are wanted.
        note: Called with layer and weights, (heads, keys), the mean over queries; keys may leave out the earliest.
    """

    last: int
    plain: bool
    skip: int = 0
    wanted: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    note: Callable[[int, torch.Tensor], None] = lambda layer, weights: None


@dataclass(frozen=True, slots=True)
class _Rule:
    """What makes scores into weights.

    Attributes:
        scale: Factor of the scores.
        softcap: c of c tanh(score / c), as in Gemma 2; None for none.
        sinks: (heads,) scores of a key that takes weight and gives nothing, as in gpt-oss; None for none.
    """

    scale: float
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def plain(self) -> bool:
        """Whether a kernel can do it."""
        return self.softcap is None and self.sinks is None

    def weights(self, scores: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """(heads, queries, keys) scaled scores, which are overwritten, to weights; beside sinks they sum to less."""
        if self.softcap is not None:
            scores = scores.div_(self.softcap).tanh_().mul_(self.softcap)
        scores = scores.masked_fill_(~seen, -torch.inf)
        if self.sinks is None:
            return scores.softmax(dim=-1)
        column = self.sinks.float().view(-1, 1, 1).expand(-1, scores.shape[1], 1)
        return torch.cat([scores, column], dim=-1).softmax(dim=-1)[..., :-1]


_WATCH: ContextVar[Watch] = ContextVar("watch")


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Let a model that runs inside give what is wanted, and end its run early.

    Raises:
        UsageError: The run came to its end without reaching the layer: the model does not use the interface.
    """
    token = _WATCH.set(watch)
    try:
        yield
    except Finished:
        return
    finally:
        _WATCH.reset(token)
    raise UsageError(
        f"Layer {watch.last} of this model does not show its attention",
        expected="a decoder whose layers go through transformers' attention interface; recurrent layers (Mamba, linear "
        "attention), encoders and models with attention code of their own do not",
        remedy="Take another model, or another method",
    )


def register() -> None:
    """Make the function known to transformers; doing it again changes nothing."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)


def mask(**asked: Any) -> torch.Tensor | None:
    """The mask of a block: what the kernel needs for the first one, always a whole one for later blocks."""
    watch = _WATCH.get()
    if watch.plain and not watch.wanted:
        return cpu_attention.padding(**asked)
    found: torch.Tensor | None = sdpa_mask(**asked | {"allow_is_causal_skip": not watch.wanted})
    return found


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, for one prompt.

    Args:
        module: The attention layer.
        query: (1, heads, queries, head size).
        key: (1, key-value heads, keys, head size).
        value: Likewise.
        attention_mask: What `mask` returned.
        scaling: Factor of the scores.
        more: ``softcap`` (Gemma 2), ``s_aux`` (sinks of gpt-oss), and what only transformers' own function knows.

    Returns:
        (1, queries, heads, head size), and None for the weights.

    Raises:
        Finished: This was the last layer.
        UsageError: The layer adds something to its scores, or looks ahead.
    """
    watch = _WATCH.get()
    _check(module, more)
    layer: int = module.layer_idx
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    rule = _Rule(scale, more.get("softcap"), more.get("s_aux"))
    if watch.wanted:
        out, weights = _few((query, key, value), attention_mask, rule, watch.skip)
        if layer in watch.wanted:
            watch.note(layer, weights[list(watch.wanted[layer])])
    if layer == watch.last:
        raise Finished
    if watch.wanted:
        return out.transpose(1, 2), None
    if watch.plain:
        return cpu_attention.attend(module, query, key, value, attention_mask, scaling, **more)
    if rule.plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    return _few((query, key, value), attention_mask, rule, None)[0].transpose(1, 2), None


def _check(module: Any, more: Mapping[str, Any]) -> None:
    if more.get("position_bias") is not None:
        raise UsageError(
            f"{type(module).__name__} adds position biases to its attention scores",
            expected="a model that knows positions by rotation",
            remedy="Take another model, or another method",
        )
    if getattr(module, "is_causal", True) is False:
        raise UsageError(
            f"{type(module).__name__} attends to what comes later too",
            expected="a causal decoder",
            remedy="Take another model, or another method",
        )


def _few(
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor], mask: torch.Tensor | None, rule: _Rule, skip: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of a block of queries, some at a time, in float32; what it gives, and its mean weights.

    Args:
        states: (1, heads, queries, head size), (1, key-value heads, keys, head size), and values likewise.
        mask: (1, 1, queries, keys), True where a key counts; None for causal from the first token on.
        rule: What makes scores into weights.
        skip: Queries at the beginning that do not count for the mean; None if it is not wanted.

    Returns:
        (1, heads, queries, head size), and (heads, keys), the mean over queries.
    """
    query, key, value = states
    _, heads, length, size = query.shape
    groups, keys = key.shape[1], key.shape[2]
    columns, values = key[0].float().transpose(1, 2), value[0]
    out = query.new_empty(1, heads, length, value.shape[-1])
    total = torch.zeros(heads, keys, device=query.device)
    step = max(1, _AT_A_TIME // (heads * keys))
    for start in range(0, length, step):
        rows = query[0, :, start : start + step].float() * rule.scale
        scores = torch.bmm(rows.reshape(groups, -1, size), columns).view(heads, -1, keys)
        weights = rule.weights(scores, _seen(mask, start, scores.shape[1], keys, query.device))
        if skip is not None:
            total += weights[:, max(0, skip - start) :].sum(dim=1)
        packed = weights.to(value.dtype).reshape(groups, -1, keys)
        out[0, :, start : start + step] = torch.bmm(packed, values).view(heads, -1, value.shape[-1])
    return out, total / max(1, length - (skip or 0))


def _seen(mask: torch.Tensor | None, start: int, length: int, keys: int, device: torch.device) -> torch.Tensor:
    """(1, queries, keys): which keys the queries from ``start`` on see."""
    if mask is not None:
        return mask[0, :, start : start + length]
    return torch.ones(1, length, keys, dtype=torch.bool, device=device).tril(start)
