"""The published model to which heads, adapters and calibrations belong, whatever the exact weights."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError
from rerank.io.model_base import BINDING, ModelBase, ModelBinding
from rerank.models import MODELS
from rerank.models.adapters import shipped_adapters
from tests.raising import raises

CONFIG = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "torch_dtype": "bfloat16"}
SHAPELESS = '{"base": {"hub_id": "m", "shapes": []}, "weights": {}}'
VOCABULARY = {"a": 0, "b": 1}


def write(folder: Path, config: dict[str, Any] | None = None, tokenizer: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer or {"model": {"vocab": VOCABULARY}}))
    return folder


def read(folder: Path, hub_id: str = "acme/m") -> ModelBase:
    base = ModelBase.read(folder, hub_id)
    assert base is not None
    return base


def test_weights_dtype_and_the_converter_do_not_matter(tmp_path: Path) -> None:
    base = read(write(tmp_path / "a"))
    other = write(tmp_path / "b", CONFIG | {"dtype": "float32", "rms_norm_eps": 1e-6})
    (other / "model.safetensors").write_bytes(b"weights")
    added = [{"id": 1, "content": "b", "special": True}]
    (other / "tokenizer.json").write_text(
        json.dumps({"pre_tokenizer": {"type": "Digits"}, "model": {"vocab": {"a": 0}}, "added_tokens": added})
    )
    assert base.is_same(read(other))
    assert base.is_same(read(other, "Acme/M"))


@pytest.mark.parametrize(
    ("config", "tokenizer", "hub_id"),
    [
        (CONFIG, None, "acme/other"),
        (CONFIG | {"hidden_size": 64}, None, "acme/m"),
        (CONFIG | {"model_type": "qwen3"}, None, "acme/m"),
        (CONFIG, {"model": {"vocab": {"a": 1, "b": 0}}}, "acme/m"),
        (CONFIG, {"model": {"vocab": [["b", -1.0], ["a", -2.0]]}}, "acme/m"),
    ],
)
def test_another_model_is_not_the_same(tmp_path: Path, config: Any, tokenizer: Any, hub_id: str) -> None:
    base = read(write(tmp_path / "a"))
    assert not base.is_same(read(write(tmp_path / "b", config, tokenizer), hub_id))
    assert not base.is_same(None)


def test_a_unigram_vocabulary_counts_positions(tmp_path: Path) -> None:
    unigram = {"model": {"vocab": [["a", -1.0], ["b", -2.0]]}}
    assert read(write(tmp_path / "a")).is_same(read(write(tmp_path / "b", CONFIG, unigram)))


def test_what_a_converter_left_out_is_not_compared(tmp_path: Path) -> None:
    base = read(write(tmp_path / "a"))
    short = write(tmp_path / "b", {"model_type": "llama"})
    (short / "tokenizer.json").unlink()
    assert base.is_same(read(short))


def test_a_folder_of_unknown_origin_or_without_a_config_has_no_base(tmp_path: Path) -> None:
    assert ModelBase.read(write(tmp_path / "a"), "") is None
    assert ModelBase.read(tmp_path, "acme/m") is None


def test_an_edited_tokenizer_is_read_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    before = read(folder)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "c": 1}}}))
    os.utime(folder / "tokenizer.json", ns=(1, 1))
    assert not before.is_same(read(folder))


def test_a_binding_is_read_as_it_was_written(tmp_path: Path) -> None:
    binding = ModelBinding(base=read(write(tmp_path / "a")), weights={"c0ffee": "the original"})
    binding.write(tmp_path)
    assert ModelBinding.read(tmp_path) == binding
    assert ModelBinding.read(tmp_path / "a") is None
    for text in (
        "[]",
        "{}",
        '{"base": {"hub": 1}, "weights": {}}',
        '{"base": {"hub_id": "m", "shapes": {}}}',
        SHAPELESS,
    ):
        (tmp_path / BINDING).write_text(text)
        with raises(DataError, BINDING):
            ModelBinding.read(tmp_path)


def test_the_shipped_adapter_belongs_to_the_model_as_it_is_published() -> None:
    """Values of config.json of HuggingFaceTB/SmolLM2-135M-Instruct at 12fd25f77366fa6b3b4b768ec3050bf629380bac.

    The digest of the vocabulary was computed from the published tokenizer.json (SHA-256 9ca9acddb6525a19...) and from
    the 4-bit copy of the package; both are equal (docs/log.md).
    """
    binding = ModelBinding.read(shipped_adapters()["smollm2-135m-attention"])
    assert binding is not None
    published = {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    }
    vocabulary = "33b7dd0ab4327c920591a9b8d479821d62d9585690dabe107eff2c8b8892cf23"
    assert binding.base == ModelBase(hub_id=MODELS["smollm2-135m"].hub_id, shapes=published, tokenizer=vocabulary)
    assert not binding.base.is_same(replace(binding.base, shapes=published | {"num_hidden_layers": 12}))
