"""Causal attention on a CPU, without what the generic path of transformers costs there.

That is: masks of length squared, heads that are copied, and a kernel that is slow in bfloat16. Only for decoders whose
layers all attend to everything before them (`is_plain`). Left padding is cut off row by row, so that no mask is
needed. Anything else that transformers asks for goes to its own function.
Imports torch at its top, so it is imported only when a model is there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from rerank.lm.loading import cpu_flags

#: Name under which transformers finds it.
NAME = "rerank_grouped"

#: Model types whose attention is known to be plain: no softcap, no sinks, no position bias.
_PLAIN_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})

#: Queries handled at a time in bfloat16; their scores stay in the processor's cache.
_BLOCK = 128

#: Keys are taken in multiples of so many: the library that multiplies keeps half a megabyte for every shape it has met.
_WIDTH = 1024

#: Up to that many queries on top of a cache are a step of decoding.
_FEW = 16


def is_plain(model: Any) -> bool:
    """Whether this module computes what ``model`` means by attention, and is faster at it."""
    config = model.config
    return (
        model.device.type == "cpu"
        and config.model_type in _PLAIN_TYPES
        and config._attn_implementation == "sdpa"
        and sees_everything(config)
    )


def sees_everything(config: Any) -> bool:
    """Whether all layers are known to attend to all tokens before them, so that gaps of padding do no harm."""
    kinds = getattr(config, "layer_types", None)
    slides = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return set(kinds) == {"full_attention"} if kinds else config.model_type in _PLAIN_TYPES and not slides


def register() -> None:
    """Make the function known to transformers; doing it again changes nothing."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, padding)


def padding(**asked: Any) -> torch.Tensor | None:
    """Stand-in for transformers' mask: the (batch, keys) padding mask, or None where nothing is padded.

    Where more than "all before me" is asked for, and for few queries on top of a cache, it is transformers' own mask of
    four dimensions; so it is for many of them where something is padded.
    """
    several_on_top = asked["q_length"] > 1 and asked["q_length"] != asked["kv_length"]
    if several_on_top and asked["q_length"] > _FEW and _is_whole(asked):
        several_on_top = False  # a later piece of a long prompt: its keys are all that came before
    if asked["mask_function"] is not causal_mask_function or asked.get("local_size") or several_on_top:
        full: torch.Tensor | None = sdpa_mask(**asked | {"allow_is_causal_skip": False})
        return full
    mask: torch.Tensor | None = asked["attention_mask"]
    return None if mask is None or bool(mask.all()) else mask[:, : asked["kv_length"]]


def _is_whole(asked: dict[str, Any]) -> bool:
    """Whether a block's keys are the tokens before it and its own, none of them padding."""
    mask = asked["attention_mask"]
    return asked.get("q_offset", 0) + asked["q_length"] == asked["kv_length"] and (mask is None or bool(mask.all()))


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: The attention layer.
        query: (batch, heads, queries, head size).
        key: (batch, key-value heads, keys, head size).
        value: Likewise.
        attention_mask: What `padding` returned.
        scaling: Factor of the scores.
        more: What only transformers' own function knows.

    Returns:
        (batch, queries, heads, head size), and None for the weights.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    few = query.shape[2] <= _FEW and query.shape[2] != key.shape[2]
    if few and (attention_mask is None or attention_mask.ndim == 2 or attention_mask.shape[1] == 1):
        return _few(query, key, value, attention_mask, scale).transpose(1, 2), None
    if attention_mask is not None and attention_mask.ndim == 4:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return result
    causal = _in_blocks if query.dtype == torch.bfloat16 and "amx_bf16" not in cpu_flags() else _by_kernel
    if attention_mask is None:
        return causal(query, key, value, scale).transpose(1, 2), None
    out = torch.zeros_like(query)
    for row, start in enumerate(attention_mask.int().argmax(dim=1).tolist()):
        own = (slice(row, row + 1), slice(None), slice(start, None))
        out[own] = causal(query[own], key[own], value[own], scale)
    return out.transpose(1, 2), None


def _few(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """A few queries on top of a cache: heads that share keys stand as queries of one head, so keys are read once.

    The mask is that of the keys, (batch, keys), for one query a row, or (batch, 1, queries, keys).
    """
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    packed = query.reshape(batch, groups, heads // groups * length, size)
    if mask is not None:
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask.repeat(1, 1, heads // groups, 1)
    out = scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale)
    return out.view(batch, heads, length, size)


def _by_kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    length, keys = query.shape[2], key.shape[2]
    if length == keys:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    seen = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale, enable_gqa=True)


def _in_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention by matrix products, a block of queries at a time, over the keys up to it; queries are the last.

    Scores are rounded to bfloat16 and the softmax is taken in float32 inside, as in transformers' eager attention.
    Each block is one task of one thread: threads that shared every small product would wait for each other more than
    they work, above all where something else runs on the machine.
    """
    batch, heads, length, size = query.shape
    groups, many = key.shape[1], key.shape[2]
    earlier = many - length
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    grouped = (query * scale).reshape(batch * groups, heads // groups, length, size)
    out = torch.empty_like(grouped)
    later = torch.full((_BLOCK, _BLOCK), -torch.inf, dtype=query.dtype).triu(1)

    def block(start: int) -> None:
        end = min(length, start + _BLOCK)
        first, past = earlier + start, earlier + end  # the block's own keys
        width = min(many, -(-past // _WIDTH) * _WIDTH)
        with torch.inference_mode():
            for at in range(batch * groups):  # heads of one group at a time: their scores are most of the memory
                scores = (grouped[at, :, start:end].flatten(0, 1) @ keys[at, :width].T).view(-1, end - start, width)
                scores[..., first:past] += later[: end - start, : end - start]
                scores[..., past:] = -torch.inf
                weights = scores.softmax(dim=-1).flatten(0, 1)
                out[at, :, start:end] = (weights @ values[at, :width]).view(-1, end - start, size)

    longest_first = range((length - 1) // _BLOCK * _BLOCK, -1, -_BLOCK)
    list(_pool(torch.get_num_threads()).map(block, longest_first))
    return out.view(batch, heads, length, size)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that each compute alone; the number of threads that torch uses elsewhere stays as it is."""
    together = Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # a thread's first look takes the common number, which must not come later
        torch.set_num_threads(1)
        together.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="attention")
    for _ in range(threads):
        pool.submit(alone)
    together.wait()
    torch.set_num_threads(threads)
    return pool
