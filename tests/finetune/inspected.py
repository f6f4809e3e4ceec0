"""Folders of tiny models and adapters for tests of inspection. Importing it needs torch, transformers and peft."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM

from rerank.lm.loading import quiet_transformers
from tests.backends.conftest import make_tokenizer
from tests.finetune.tiny import tiny_ids, tiny_loss, tiny_model

#: As many as the tokenizer of these tests has, and one more.
VOCABULARY = 260
TARGETS = ("q_proj", "v_proj", "down_proj")


def write_base(folder: Path, *, seed: int = 0, layers: int = 2, **options: Any) -> Path:
    """A random model with its tokenizer."""
    with quiet_transformers():
        tiny_model(layers, seed=seed, vocabulary=VOCABULARY, **options).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    return folder


def load_base(folder: Path) -> Any:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def lora(**options: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), **options})


def noisy(model: Any, *, std: float = 0.05, seed: int = 1) -> None:
    """Move everything that trains by chance."""
    chance = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += std * torch.randn(parameter.shape, generator=chance)


def trained(model: Any, *, steps: int = 5, lr: float = 0.02) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for step in range(steps):
        tiny_loss(model.train(), tiny_ids(step, vocabulary=VOCABULARY)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def write_adapter(folder: Path, base: Path, config: Any, change: Callable[[Any], None] = noisy) -> torch.Tensor:
    """An adapter on the model of a folder; what the adapted model answers to `tiny_ids`."""
    torch.manual_seed(7)
    with quiet_transformers():
        model = peft.get_peft_model(load_base(base), config)
        change(model)
        found = answers(model)
        model.save_pretrained(folder)
    return found


def answers(model: Any) -> torch.Tensor:
    """(rows, length, vocabulary) logits of `tiny_ids`, in float32."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=tiny_ids(), use_cache=False).logits.float()
    return found


def merged_weights(folder: Path, base: Path) -> dict[str, torch.Tensor]:
    """The weights of an adapted model as PEFT merges them, a second way to what changed."""
    with quiet_transformers():
        model: Any = peft.PeftModel.from_pretrained(load_base(base), str(folder)).merge_and_unload()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
