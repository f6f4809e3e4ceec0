"""Tiny models with random weights and a byte-level tokenizer, made in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rerank.backends.hf import Hf

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny(folder: Path) -> Path:
    """Save the tiny model with its tokenizer, and return the folder."""
    from rerank.lm.loading import quiet_transformers

    with quiet_transformers():
        make_model().save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer(template: str | None = CHATML) -> Any:
    """Every byte a token, and three special tokens."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(kind: str = "Llama", *, seed: int = 0, **config: Any) -> Any:
    """Two layers, four heads that share two key-value heads, 512 positions, weights wide enough to prefer something."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    settings = {
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.5,
        "sliding_window": None,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 258,
        **config,
    }
    torch.manual_seed(seed)
    made = getattr(transformers, f"{kind}TextConfig", None) or getattr(transformers, f"{kind}Config")
    return getattr(transformers, f"{kind}ForCausalLM")(made(**settings)).eval()


def in_memory(
    model: Any, tokenizer: Any, *, name: str = "in-memory", options: Any = None, kind: type[Hf] | None = None
) -> Hf:
    """The backend of a model in memory, whose identity is only its name and data type."""
    from rerank.backends import hf

    identity = {"model": name, "dtype": str(model.dtype).removeprefix("torch.")}
    return (kind or hf.Hf)(model.eval(), tokenizer, identity=identity, options=options)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads would only wait for each other on tensors this small."""
    try:
        import torch
    except ImportError:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
