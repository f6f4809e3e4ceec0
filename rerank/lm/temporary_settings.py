"""Change settings of a model temporarily: attention function and generation config. Imports torch at import time."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

from rerank.lm import cpu_attention


class TemporarySettings:
    """A context manager that changes a model's settings and restores them afterwards.

    Inside the block, no gradients are recorded. With ``config``, the model's own generation defaults do not apply: a
    repetition penalty, for example, would forbid identifiers. The value of ``with ... as`` is true if
    `rerank.lm.cpu_attention` is active.

    Args:
        model: A causal language model of transformers.
        config: The generation config to use; None keeps the model's own.
        attention: Name of the attention function; if empty, the CPU kernel is used for models that it supports.
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
