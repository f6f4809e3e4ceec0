"""Change a model temporarily: its attention function, generation config and output head. Imports torch at import time.

In bfloat16, logits near 20 are rounded to steps of 1/8, so many identifiers would tie. With a vocabulary of 50,000
tokens or more, the head dominates the cost of a short step, although a choice among ten tokens needs only ten rows.
Softcaps and factors that the model applies to its logits stay in effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import GenerationConfig

from rerank.lm import cpu_attention
from rerank.lm.model_process import is_split


class TemporarySettings:
    """A context manager that changes a model's settings and restores them afterwards.

    Inside the block, no gradients are recorded. With ``config``, the model's own generation defaults do not apply:
    a repetition penalty, for example, would forbid identifiers. Without the name of an attention function, the CPU
    kernel is used for models that it supports; the value of ``with ... as`` is true if it is active.
    """

    def __init__(self, model: Any, config: GenerationConfig | None = None, attention: str = "") -> None:
        self._model, self._config = model, config
        self._own_attention = model.config._attn_implementation
        supported = cpu_attention.supports_cpu_attention(model)
        self._attention = attention or (cpu_attention.NAME if supported else "")
        # FSDP repeatedly gathers sharded weights into the same tensors, which must not become inference tensors.
        sharded = any(hasattr(value, "full_tensor") for value in model.parameters())
        self._mode = torch.no_grad() if sharded else torch.inference_mode()

    def __enter__(self) -> bool:
        self._mode.__enter__()
        self._own_config = self._model.generation_config
        if self._config is not None:
            self._model.generation_config = self._config
        if self._attention:
            cpu_attention.register_cpu_attention()
            self._model.set_attn_implementation(self._attention)
        return self._attention == cpu_attention.NAME

    def __exit__(self, *_: object) -> None:
        self._model.generation_config = self._own_config
        if self._attention:
            self._model.set_attn_implementation(self._own_attention)
        self._mode.__exit__(None, None, None)


#: Number of rows of the weight matrix that are converted to float32 at a time on an accelerator.
_SLICE = 1 << 14

#: Number of entries of the weight matrix that are converted at a time on a CPU: 4 MiB in float32, which fit in its
#: caches. Buffers of more than 32 MiB are mapped anew for every slice, which took seven times as long as the
#: computation itself.
_CPU_ENTRIES = 1 << 20


class OutputHead:
    """A context manager that replaces the output head of a model by its float32 version, which causes fewer ties.

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
            and layer.weight.device.type != "meta"
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
