"""Tiny cross-encoders made of modules, with random weights, as sentence-transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.backends.pairs import WORDS, save

WIDTH = 16


def save_ettin(folder: Path, *, outputs: int = 1, head: str = "scores") -> Path:
    """The layout of Ettin: ModernBERT, CLS pooling, a dense layer, a layer norm, and the dense layer of the score."""
    import torch
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    torch.manual_seed(1)
    states: Any = {"module_input_name": "sentence_embedding"}
    modules = [
        Dense(WIDTH, WIDTH, bias=False, activation_function=torch.nn.GELU(), **states),
        LayerNorm(WIDTH),
        Dense(WIDTH, outputs, activation_function=torch.nn.Identity(), module_output_name=head, **states),
    ]
    return _save_modules(folder, "cls", modules)


def save_dense(folder: Path) -> Path:
    """The smallest: ModernBERT, mean pooling and one dense layer."""
    import torch
    from sentence_transformers.base.modules import Dense

    torch.manual_seed(1)
    head = Dense(
        WIDTH,
        1,
        activation_function=torch.nn.Identity(),
        module_input_name="sentence_embedding",
        module_output_name="scores",
    )
    return _save_modules(folder, "mean", [head])


def _save_modules(folder: Path, pooling: str, head: list[Any]) -> Path:
    import torch
    import transformers
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    save(folder)  # for its tokenizer
    config: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "max_position_embeddings": 24, "initializer_range": 0.5}
    config |= {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    torch.manual_seed(0)
    transformers.ModernBertModel(transformers.ModernBertConfig(vocab_size=len(WORDS), **config)).save_pretrained(folder)
    model = CrossEncoder(modules=[Transformer(str(folder)), Pooling(WIDTH, pooling), *head], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def save_yes_no(folder: Path) -> Path:
    """A language model whose score is the logit of yes minus that of no, as sentence-transformers saves it."""
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(save_language_model(folder)), device="cpu").save_pretrained(str(folder), create_model_card=False)
    assert [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())] == [
        "Transformer",
        "LogitScore",
    ]
    return folder


def save_language_model(folder: Path, *, words: bool = True) -> Path:
    """A language model without a chat template; with ``words``, yes and no are tokens."""
    from tests.backends.conftest import make_model, make_tokenizer

    tokenizer = make_tokenizer(None)
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    tokenizer.add_tokens(["yes", "no"] if words else [])
    make_model("Qwen3", vocab_size=272).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_own_head(folder: Path) -> Path:
    """A head whose class is code in the folder of the model, and whose weights are safetensors."""
    save_dense(folder)
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1] |= {"type": "modeling_head.Head"}
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "modeling_head.py").write_text(
        "from sentence_transformers.base.modules import Dense\n\n\nclass Head(Dense):\n"
        "    def forward(self, features):\n        features = super().forward(features)\n"
        "        features['scores'] = -features['scores']\n        return features\n"
    )
    return folder
