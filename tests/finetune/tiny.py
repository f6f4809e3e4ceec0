"""Tiny random models, and batches for them, shared by tests of training. Imports torch and transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 256


def tiny_model(layers: int = 2, *, seed: int = 0, vocabulary: int = VOCABULARY, **options: Any) -> Any:
    """Return a random Llama in evaluation mode; the same seed gives the same weights.

    Its matrices are (rows x columns): q and o 64 x 64, k and v 32 x 64, gate and up 128 x 64, down 64 x 128.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=vocabulary,
        **options,
    )
    model: Any = LlamaForCausalLM(config)
    return model.eval()


def tiny_ids(seed: int = 0, *, rows: int = 2, length: int = 12, vocabulary: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def tiny_loss(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def tiny_logits(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    """Return the logits (rows, length, vocabulary) in evaluation mode and without gradients."""
    training = model.training
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tiny_ids() if ids is None else ids, use_cache=False).logits
    model.train(training)
    return logits


@dataclass(frozen=True)
class TinyBatches:
    """A `rerank.finetune.components.CalibrationBatches` over a few random batches."""

    batches: int = 2
    seed: int = 1
    first_lr: float = 1e-5

    def forward(self, model: Any, lists: int | None = None) -> None:
        with torch.no_grad():
            for at in range(lists or self.batches):
                model(input_ids=tiny_ids(self.seed + at), use_cache=False)

    def backward(self, model: Any, lists: int | None = None) -> None:
        """Add the gradient of the mean loss over the batches."""
        for at in range(lists or self.batches):
            (tiny_loss(model, tiny_ids(self.seed + at)) / (lists or self.batches)).backward()  # type: ignore[no-untyped-call]
