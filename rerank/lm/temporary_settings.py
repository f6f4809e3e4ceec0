"""A model on loan: its attention and its decoding defaults changed for a while, and given back as they were.

Imports torch at its top, so it is imported only when a model is there.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig

from rerank.lm import cpu_attention


class Borrowed:
    """Changes a model while a ``with`` block runs.

    Its own decoding defaults go (a repetition penalty would forbid identifiers), an attention comes in, and nothing is
    kept for gradients.

    Args:
        model: A causal language model of transformers.
        config: Decoding defaults for the while; its own if None.
        attention: Name of the attention; empty takes ours where it is the faster one (`_attention.is_plain`).

    ``with`` gives whether our fast attention is in.
    """

    def __init__(self, model: Any, config: GenerationConfig | None = None, attention: str = "") -> None:
        self._model, self._config = model, config
        self._own = model.config._attn_implementation
        self._attention = attention or (cpu_attention.NAME if cpu_attention.is_plain(model) else "")
        # Weights that processes share out are gathered again and again into the same tensors, which may not become
        # tensors of inference.
        shared = any(hasattr(value, "full_tensor") for value in model.parameters())
        self._mode = torch.no_grad() if shared else torch.inference_mode()

    def __enter__(self) -> bool:
        self._mode.__enter__()
        self._kept = self._model.generation_config
        if self._config is not None:
            self._model.generation_config = self._config
        if self._attention:
            cpu_attention.register()
            self._model.set_attn_implementation(self._attention)
        return self._attention == cpu_attention.NAME

    def __exit__(self, *_: object) -> None:
        self._model.generation_config = self._kept
        if self._attention:
            self._model.set_attn_implementation(self._own)
        self._mode.__exit__(None, None, None)
