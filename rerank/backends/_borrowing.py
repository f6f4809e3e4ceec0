"""A model on loan: its attention and its decoding defaults changed for a while, and given back as they were.

Imports torch at its top, so it is imported only when a model is there.
"""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from rerank.backends import _attention


class Borrowed:
    """Changes a model while a ``with`` block runs.

    Its own decoding defaults go (a repetition penalty would forbid identifiers), and an attention comes in.

    Args:
        model: A causal language model of transformers.
        config: Decoding defaults for the while; its own if None.
        attention: Name of the attention; empty takes ours where it is the faster one (`_attention.is_plain`).

    ``with`` gives whether our fast attention is in.
    """

    def __init__(self, model: Any, config: GenerationConfig | None = None, attention: str = "") -> None:
        self._model, self._config = model, config
        self._own = model.config._attn_implementation
        self._attention = attention or (_attention.NAME if _attention.is_plain(model) else "")

    def __enter__(self) -> bool:
        self._kept = self._model.generation_config
        if self._config is not None:
            self._model.generation_config = self._config
        if self._attention:
            _attention.register()
            self._model.set_attn_implementation(self._attention)
        return self._attention == _attention.NAME

    def __exit__(self, *_: object) -> None:
        self._model.generation_config = self._kept
        if self._attention:
            self._model.set_attn_implementation(self._own)
