"""Causal attention without masks of quadratic size and without copies of key-value heads (grouped-query attention).

The generic implementation of transformers needs such a mask as soon as several tokens are processed on top of a KV
cache, and then copies keys and values; on an accelerator, the mask also rules out flash attention. On a CPU, this
implementation also avoids a kernel that is slow in bfloat16. It supports decoders whose layers all attend to all
preceding tokens (`supports_grouped_attention`). Left padding is cut off per row, so that no mask is needed. All other
cases are passed on to transformers. Imports torch at import time.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any

import torch
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward, use_gqa_in_sdpa
from transformers.masking_utils import causal_mask_function, sdpa_mask

from rerank.lm.loading import processor_flags

#: Name under which the functions are registered in the attention interface of transformers.
NAME = "rerank_grouped"

#: Model types with standard attention: no softcap, no attention sinks, no position bias.
_PLAIN_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})

#: Number of query tokens per block in bfloat16; the scores of a block fit into the processor's cache.
_BLOCK = 128

#: The number of keys is rounded up to a multiple of this number, since the matrix library keeps 0.5 MB per shape.
_WIDTH = 1024

#: Maximum number of query tokens on top of a KV cache that count as a decoding step.
FEW = 16

#: Number of query tokens from which an accelerator computes each row of a batch by itself, without padding and mask.
#: In a model with 8 billion parameters, the attention of 1,024 tokens takes 3% of the operations, so shorter rows
#: share one call with a mask, which needs fewer kernels.
_LONG = 1024


def on_cpu(owner: Any) -> bool:
    """Return whether a model or tensor is on a CPU; every other device counts as an accelerator."""
    return str(owner.device.type) == "cpu"


def supports_grouped_attention(model: Any) -> bool:
    """Return whether this module supports a model and computes its attention faster than transformers."""
    config = model.config
    return config.model_type in _PLAIN_TYPES and config._attn_implementation == "sdpa" and has_full_attention(config)


def packs_rows(model: Any, lengths: Sequence[int]) -> bool:
    """Return whether rows with these numbers of new tokens are processed as one sequence, instead of being padded."""
    return on_cpu(model) or max(lengths) >= _LONG


def has_full_attention(config: Any) -> bool:
    """Return whether all layers attend to all preceding tokens. If so, padding between tokens has no effect."""
    layer_types = getattr(config, "layer_types", None)
    slides = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    return set(layer_types) == {"full_attention"} if layer_types else config.model_type in _PLAIN_TYPES and not slides


def make_padding_mask(**arguments: Any) -> torch.Tensor | None:
    """Return the mask for `grouped_attention_forward`; called by transformers in place of its own mask function.

    It is the four-dimensional mask of transformers if attention is not purely causal, or if several queries are
    processed on top of a cache (except for more than 16 queries without padding), or on an accelerator if padded rows
    are short. Otherwise it is the padding mask, of shape (batch, keys), or None if there is no padding.
    """
    mask: torch.Tensor | None = arguments["attention_mask"]
    length, keys = arguments["q_length"], arguments["kv_length"]
    if mask is not None and bool(mask.all()):
        mask = None
    on_cache = length > 1 and length != keys
    ends_at_last_key = arguments.get("q_offset", 0) + length == keys
    if on_cache and length > FEW and ends_at_last_key and mask is None:
        on_cache = False  # a later block of a long prompt without padding: causal masking suffices
    shares_call = mask is not None and not on_cpu(mask) and 1 < length < _LONG
    if arguments["mask_function"] is not causal_mask_function or arguments.get("local_size") or on_cache or shares_call:
        full: torch.Tensor | None = sdpa_mask(**arguments | {"allow_is_causal_skip": False})
        return full
    if mask is None:
        return None
    # In a prefill, every layer reads from the mask where the rows begin. On the host, this waits for no device.
    return mask[:, :keys] if length == 1 else mask[:, :keys].cpu()


def grouped_attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention, with the signature that transformers expects of an attention function.

    Queries have the shape (batch, heads, queries, head size), keys and values (batch, key-value heads, keys, head
    size), both after RoPE; the mask is that of `make_padding_mask`. The output has the shape (batch, queries,
    heads, head size).
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    few = query.shape[2] <= FEW and query.shape[2] != key.shape[2]
    if few and (attention_mask is None or attention_mask.ndim == 2 or attention_mask.shape[1] == 1):
        return _decoding_step(query, key, value, attention_mask, scale).transpose(1, 2), None
    if attention_mask is not None and attention_mask.ndim == 4:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return result
    in_blocks = on_cpu(query) and query.dtype == torch.bfloat16 and "amx_bf16" not in processor_flags()
    causal = _causal_blocks if in_blocks else _causal_kernel
    if attention_mask is None:
        return causal(query, key, value, scale).transpose(1, 2), None
    out = torch.zeros_like(query)
    # argmax returns the first real token of each row: all tokens to its left are padding and are cut off.
    for row, start in enumerate(attention_mask.int().argmax(dim=1).tolist()):
        own = (slice(row, row + 1), slice(None), slice(start, None))
        out[own] = causal(query[own], key[own], value[own], scale)
    return out.transpose(1, 2), None


def _decoding_step(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Compute attention of a few queries on top of a cache.

    Heads that share keys (grouped-query attention) are treated as further queries of one head, so each key is read
    from memory only once. The mask has the shape (batch, keys) for one query per row, or (batch, 1, queries, keys).
    """
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    # (batch, groups, heads per group * queries, head size)
    packed = query.reshape(batch, groups, heads // groups * length, size)
    if mask is not None:
        mask = mask[:, None, None, :] if mask.ndim == 2 else mask.repeat(1, 1, heads // groups, 1)
    out = functional.scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale)
    return out.view(batch, heads, length, size)


def takes_grouped_heads(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Return whether fused attention takes fewer key-value heads than heads without storing all scores."""
    if query.device.type == "cuda":  # only flash attention does: no float32, no GPU before Ampere
        return can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, False, True))
    return on_cpu(query) or use_gqa_in_sdpa(None, key, value)


def _causal_kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    length, keys = query.shape[2], key.shape[2]
    if not takes_grouped_heads(query, key, value):
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    if length == keys:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
    if keys < 2 * length:  # padding queries with zeros costs less than a mask, which requires all scores
        zeros = query.new_zeros(*query.shape[:2], keys - length, query.shape[3])
        padded = torch.cat([zeros, query], dim=2)
        out = functional.scaled_dot_product_attention(padded, key, value, is_causal=True, scale=scale, enable_gqa=True)
        return out[:, :, keys - length :]
    # Query i is at position keys - length + i and sees the keys up to this position. Flash attention needs no mask for
    # that; where it is not available, torch makes one.
    visible = causal_lower_right(length, keys)
    return functional.scaled_dot_product_attention(query, key, value, visible, scale=scale, enable_gqa=True)


def _causal_blocks(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Compute causal attention by matrix products. Each block of queries is multiplied by the keys up to its own end.

    The queries and the last keys belong to the same tokens. Scores are rounded to bfloat16 and the softmax is computed
    in float32 internally, as in the eager attention of transformers. Each block is computed by a single thread, because
    threads that share a small matrix product wait longer than they compute, especially on a busy machine.
    """
    batch, heads, length, size = query.shape
    groups, key_count = key.shape[1], key.shape[2]
    cached = key_count - length
    keys, values = key.flatten(0, 1), value.flatten(0, 1)  # (batch * groups, keys, head size)
    # (batch * groups, heads per group, queries, head size)
    grouped = (query * scale).reshape(batch * groups, heads // groups, length, size)
    out = torch.empty_like(grouped)
    # -inf above the diagonal: hides the keys of a block from its earlier queries.
    upper = torch.full((_BLOCK, _BLOCK), -torch.inf, dtype=query.dtype).triu(1)

    def block(start: int) -> None:
        end = min(length, start + _BLOCK)
        first, past = cached + start, cached + end  # the block's own keys
        width = min(key_count, -(-past // _WIDTH) * _WIDTH)
        with torch.inference_mode():
            for group in range(batch * groups):  # one group of heads at a time, since the scores need the most memory
                # (heads per group, block, width) scores q k^T / sqrt(d), then weights, then weighted values
                scores = (grouped[group, :, start:end].flatten(0, 1) @ keys[group, :width].T).view(
                    -1, end - start, width
                )
                scores[..., first:past] += upper[: end - start, : end - start]
                scores[..., past:] = -torch.inf
                weights = scores.softmax(dim=-1).flatten(0, 1)
                out[group, :, start:end] = (weights @ values[group, :width]).view(-1, end - start, size)

    longest_first = range((length - 1) // _BLOCK * _BLOCK, -1, -_BLOCK)
    list(_thread_pool(torch.get_num_threads()).map(block, longest_first))
    return out.view(batch, heads, length, size)


@cache
def _thread_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads run torch single-threaded; the thread count of other threads is unaffected."""
    barrier = Barrier(threads + 1)

    def use_one_thread() -> None:
        # The first call in a thread copies the global number of threads; it must precede the call that changes it.
        torch.get_num_threads()
        torch.set_num_threads(1)
        barrier.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="attention")
    for _ in range(threads):
        pool.submit(use_one_thread)
    barrier.wait()
    torch.set_num_threads(threads)
    return pool


AttentionInterface.register(NAME, grouped_attention_forward)
AttentionMaskInterface.register(NAME, make_padding_mask)
