"""A tiny cross-encoder with random weights, saved as real ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{at}" for at in range(90))]


def save(folder: Path, *, labels: int = 1, base: bool = False, head: str = "", **config: Any) -> Path:
    """A BERT with random weights that knows ninety words; without a head (``base``), or with the class ``head``."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    raw = Tokenizer(models.WordLevel(vocab={word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks: Any = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep", "mask")}
    tokenizer: Any = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, **marks)  # type: ignore[no-untyped-call]
    settings: Any = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    settings |= {"max_position_embeddings": 24, "num_labels": labels, "initializer_range": 0.5, **config}
    torch.manual_seed(0)
    kind: Any = getattr(transformers, head or ("BertModel" if base else "BertForSequenceClassification"))
    kind(transformers.BertConfig(vocab_size=len(WORDS), **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
