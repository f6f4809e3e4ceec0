"""A tiny model of the class of jina-reranker-v3 with random weights, saved as the real one is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.backends.conftest import make_tokenizer

PASSAGE, QUERY = "<|embed_token|>", "<|rerank_token|>"


def save(folder: Path, *, context_size: int = 4096, drop: str = "", marks: bool = True) -> Path:
    """Save weights, configuration and tokenizer, without the weight ``drop``, or without the special tokens."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = make_tokenizer()
    if marks:
        tokenizer.add_special_tokens({"additional_special_tokens": [PASSAGE, QUERY]})
    settings: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 264, "initializer_range": 0.5}
    config = Qwen3Config(**settings, max_position_embeddings=context_size)
    torch.manual_seed(0)
    weights = {f"model.{name}": tensor for name, tensor in Qwen3Model(config).state_dict().items()}
    weights |= {"projector.0.weight": torch.randn(16, 32), "projector.2.weight": torch.randn(512, 16)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: w for name, w in weights.items() if name != drop}, folder / "model.safetensors", {"format": "pt"})
    stated = {**config.to_dict(), "architectures": ["JinaForRanking"], "auto_map": {"AutoModel": "modeling.Absent"}}
    (folder / "config.json").write_text(json.dumps(stated))
    tokenizer.save_pretrained(folder)
    return folder
