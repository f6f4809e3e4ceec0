"""Forward passes of different model classes, their KV caches, and temporary settings. Imports torch and transformers.

The memory of a KV cache is preallocated: new tokens are written in place instead of copying the whole cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import GenerationConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rerank.errors import UsageError
from rerank.lm import grouped_attention
from rerank.lm.model_process import is_split


def call_forward(model: Any, *, cache: Any = None, **arguments: Any) -> Any:
    """Call a model with those arguments that it accepts; some lack ``position_ids`` or ``logits_to_keep``."""
    names = _parameters(type(model).forward)
    accepted = {name: value for name, value in arguments.items() if name in names}
    return model(**accepted, **({} if cache is None else {kv_cache_argument_name(model): cache}))


def kv_cache_of_output(model: Any, output: Any) -> Any:
    """Return the KV cache that a forward pass returned; None if it did not return one."""
    return getattr(output, kv_cache_argument_name(model), None)


def kv_cache_argument_name(model: Any) -> str:
    """Return the name of the KV cache argument of a model, which depends on the version of transformers."""
    return "cache" if "cache" in _parameters(type(model).forward) else "past_key_values"


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


class PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """The KV cache of one layer, with memory for ``capacity`` tokens, which grows if more tokens are added.

    ``keys`` and ``values`` are views of the filled part, of shape (batch, key-value heads, tokens, head size), so that
    all other methods of `DynamicLayer` work unchanged.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of new tokens and return those of all tokens."""
        start = int(self.get_seq_length())
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cached = self.keys
        # transformers may have replaced ``keys`` (reordered batch); they are then no longer views of our buffers.
        is_view = self._buffers is not None and (
            start == 0 or cached is None or cached.data_ptr() == self._buffers[0].data_ptr()
        )
        if self._buffers is None or not is_view or end > self._buffers[0].shape[-2]:
            # Growth by an eighth keeps the total cost of copying linear in the number of tokens, and memory close to
            # what is used.
            capacity = max(self._capacity, end if start == 0 else end + max(64, end // 8))
            buffers = []
            for new, old in ((key_states, cached), (value_states, self.values)):
                buffer = new.new_empty((*new.shape[:-2], capacity, new.shape[-1]))
                if start and old is not None:
                    buffer[:, :, :start] = old
                buffers.append(buffer)
            self._buffers = (buffers[0], buffers[1])
        keys, values = self._buffers
        # (batch, key-value heads, tokens, head size): only the new tokens are written.
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def make_kv_cache(config: Any, capacity: int) -> Cache:
    """Return an empty KV cache for a model; its full-attention layers have memory for ``capacity`` tokens."""
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def snapshot_kv_cache(cache: Cache) -> list[dict[str, Any]]:
    """Return the state that `restore_kv_cache` needs; nothing is copied, since layers never overwrite cached tokens."""
    for layer in cache.layers:
        if type(layer) not in (PreallocatedLayer, DynamicLayer, DynamicSlidingWindowLayer):
            raise UsageError(
                f"This model has layers with a recurrent state ({type(layer).__name__})",
                expected="a decoder in which every layer is an attention layer",
                remedy="Use another model, or another method",
            )
    return [dict(vars(layer)) for layer in cache.layers]


def restore_kv_cache(cache: Cache, state: list[dict[str, Any]]) -> None:
    """Remove all tokens that were added since `snapshot_kv_cache`."""
    for layer, attributes in zip(cache.layers, state, strict=True):
        # The stored views end at the snapshot; later tokens stay in the buffer until they are overwritten.
        vars(layer).clear()
        vars(layer).update(attributes)


@contextmanager
def temporary_settings(model: Any, config: GenerationConfig | None = None, attention: str = "") -> Iterator[bool]:
    """Change a model's settings inside the block, in which no gradients are recorded.

    With ``config``, the model's own generation defaults do not apply: a repetition penalty, for example, would forbid
    identifiers. Without the name of an attention function, that of `rerank.lm.grouped_attention` is used for models
    that it supports; ``with ... as`` is true if it is active.
    """
    own_config, own_attention = model.generation_config, model.config._attn_implementation
    if not attention and grouped_attention.supports_grouped_attention(model):
        attention = grouped_attention.NAME
    # FSDP repeatedly gathers sharded weights into the same tensors, which must not become inference tensors.
    is_sharded = any(hasattr(value, "full_tensor") for value in model.parameters())
    with torch.no_grad() if is_sharded else torch.inference_mode():
        model.generation_config = own_config if config is None else config
        if attention:
            model.set_attn_implementation(attention)
        try:
            yield attention == grouped_attention.NAME
        finally:
            model.generation_config = own_config
            if attention:
                model.set_attn_implementation(own_attention)


#: Number of rows of the weight matrix that are converted to float32 at a time on an accelerator.
_SLICE = 1 << 14

#: Number of entries of the weight matrix that are converted at a time on a CPU: 4 MiB in float32, which fit in its
#: caches. Buffers of more than 32 MiB are mapped anew for every slice, which took seven times as long as the
#: computation itself.
_CPU_ENTRIES = 1 << 20


class OutputHead:
    """A context manager that replaces the output head of a model by its float32 version, which causes fewer ties.

    In bfloat16, logits near 20 are rounded to steps of 1/8. With a vocabulary of 50,000 tokens or more, the head
    dominates the cost of a short step, although a choice among ten tokens needs only ten rows. Softcaps and factors
    that the model applies to its logits stay in effect.

    Only the logits of ``token_ids`` are computed; None stands for the whole vocabulary. A quantised, split,
    offloaded or wrapped head remains unchanged, since only its own code can apply its weights.
    """

    def __init__(self, model: Any) -> None:
        self._layer = model.get_output_embeddings()
        layer = self._layer
        self._replaced = (
            type(layer) is torch.nn.Linear
            and type(layer.weight) is torch.nn.Parameter
            and "forward" not in vars(layer)
            and layer.weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
            and not is_split(model)
        )
        self.token_ids: list[int] | None = None

    def __enter__(self) -> OutputHead:
        if self._replaced:
            self._layer.forward = self._logits
        return self

    def __exit__(self, *_: object) -> None:
        if self._replaced:
            del self._layer.forward

    def select(self, logits: Tensor, tokens: Sequence[int]) -> Tensor:
        """Return the logits, of shape (len(tokens),), of some of the ``token_ids``.

        The logits have shape (len(token_ids),) or, if the head was not replaced, (vocabulary,).
        """
        if self._replaced and self.token_ids is not None:
            # The replaced head computes one logit per token, in the order of token_ids.
            column = {token: index for index, token in enumerate(self.token_ids)}
            return logits[[column[token] for token in tokens]]
        return logits[list(tokens)]

    def _logits(self, hidden: Tensor) -> Tensor:
        """Compute logits of shape (batch, positions, tokens) from hidden states (batch, positions, hidden size)."""
        weight, bias = self._layer.weight, self._layer.bias
        # With layers on several devices, hidden states may be on another device than the head.
        hidden = hidden.to(weight.device, torch.float32)
        if self.token_ids is not None:
            weight, bias = weight[self.token_ids], None if bias is None else bias[self.token_ids]
        # The matrix is converted in slices, so that it never exists in float32 as a whole.
        size = max(1, _CPU_ENTRIES // weight.shape[1]) if weight.device.type == "cpu" else _SLICE
        logits = torch.cat([linear(hidden, rows.float()) for rows in weight.split(size)], dim=-1)
        return logits if bias is None else logits + bias.float()
