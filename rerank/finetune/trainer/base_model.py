"""A base model made ready: loaded, cut to the layers that are looked at, and what of it a checkpoint must hold.

Imports torch at its top. Knows models, not how they are trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from rerank.backends.hf import Hf
from rerank.finetune.recipe import ReadoutTable, Recipe
from rerank.finetune.trainer.module import Listwise
from rerank.judges.attention import band
from rerank.judges.attention.heads import open_heads
from rerank.lm.icr_scoring import chosen
from rerank.lm.loading import load
from rerank.models import BackendOptions, resolve
from rerank.tasks import AttentionTask


def load_base(recipe: Recipe, *, dtype: str, device: str) -> tuple[Hf, Any]:
    """The base model as a backend, and its tokenizer; none of its weights trains yet."""
    options = BackendOptions(
        revision=recipe.revision or "", dtype=dtype, device=device, trust_remote_code=recipe.trust_remote_code
    )
    model, tokenizer, identity = load(resolve(recipe.model), options)
    model.requires_grad_(False)
    return Hf(model, tokenizer, identity=identity, options=options), tokenizer


def chosen_heads(table: ReadoutTable, backend: Hf) -> list[tuple[int, int]]:
    """The heads that attention losses look at.

    Raises:
        UsageError: The model has not these layers or heads, or none is left.
    """
    listed = open_heads(table.heads, backend.identity).heads if table.heads else ()
    task = AttentionTask(spans=(), tail=0, heads=listed, layers=band(table.layers))
    wanted = chosen(backend.model.config.get_text_config(), task)
    return [(layer, head) for layer, heads in wanted.items() for head in heads]


def cut(model: Any, layers: int) -> bool:
    """Leave out the layers above the first so many; whether there were any."""
    config, decoder = model.config.get_text_config(), model.get_decoder()
    if not hasattr(decoder, "layers") or len(decoder.layers) <= layers:
        return False
    decoder.layers = decoder.layers[:layers]
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return True


def within(adapter: Any, layers: int) -> Any:
    """The adapter for the layers that are left, so that what it saves loads onto the whole model."""
    return replace(adapter, layers=min(layers, adapter.layers or layers)) if hasattr(adapter, "layers") else adapter


def plain(model: Any) -> Any:
    """The model of transformers inside whatever an adapter made of it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def to_keep(module: Listwise, before: set[str], *, moved: bool) -> list[str]:
    """Names of the tensors that a checkpoint has to hold: what trains, and what the adapter made or changed.

    Args:
        module: With the adapter attached.
        before: Names in the model's state before that.
        moved: Whether adapted matrices of the base were changed.
    """
    trains = {name for name, value in module.named_parameters() if value.requires_grad}
    made = set()
    for name in module.state_dict():
        inner = name.removeprefix("model.").removeprefix("base_model.model.")
        old = inner.replace(".base_layer", "")
        if old not in before or (moved and old != inner):
            made.add(name)
    return sorted(trains | made)


def state_bytes(optimizer: Any) -> int:
    """Bytes of the tensors that an optimizer keeps."""
    entries = (value for entry in optimizer.state.values() for value in entry.values())
    return sum(value.numel() * value.element_size() for value in entries if isinstance(value, torch.Tensor))
