"""The table of other models in docs/models.md, against small models with random weights of the same classes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import torch
import transformers

from rerank.errors import RerankError, UsageError
from rerank.lm.loading import quiet_transformers
from rerank.models import MODELS
from rerank.reranker import Reranker
from tests.backends.pairs import save
from tests.docs_scripts import load_docs_script

ROOT = Path(__file__).resolve().parents[2]
FACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "docs" / "other_models.toml").read_text())["models"]
#: Sizes by the names that configurations have for them.
SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "head_dim"), 16),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "num_key_value_heads"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 256),
    **{"vocab_size": 95, "d_kv": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2},
    **{"sep_token_id": 3, "layer_types": ["full_attention"] * 2},
}


def kinds() -> list[Any]:
    """One model per class, number of labels and outcome, of those classes that transformers has."""
    seen: dict[Any, dict[str, Any]] = {}
    for model in FACTS:
        (name,) = model["architectures"]
        if model["hub_id"] in {preset.hub_id for preset in MODELS.values()}:
            continue  # by its id, not by its class
        if hasattr(transformers, name) and "modules" not in model and not model.get("remote_code"):
            seen.setdefault((name, model.get("labels")), model)
    return [pytest.param(model, id=f"{name}-{labels}") for (name, labels), model in seen.items()]


def save_random(folder: Path, name: str, labels: int | None) -> Path:
    """A small model of a class of transformers, with the tokenizer of the tests."""
    kind: Any = getattr(transformers, name)
    known = kind.config_class()
    settings = {key: value for key, value in SIZES.items() if hasattr(known, key)}
    if labels:
        settings["num_labels"] = labels
    torch.manual_seed(0)
    save(folder)
    with quiet_transformers():
        kind(kind.config_class(**settings)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model", kinds())
def test_a_model_of_this_class_is_treated_as_the_table_says(
    model: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    outcome = load_docs_script("generate").outcome_of_other_model(model)
    folder = save_random(tmp_path / "m", model["architectures"][0], model.get("labels"))
    if outcome.startswith("refused"):
        reason = "labels" if "labels" in outcome else "encoder-decoder" if "decoder" in outcome else "generates no text"
        with pytest.raises(UsageError, match=reason):
            Reranker.from_pretrained(str(folder), dtype="float32", device="cpu")
        return
    method = "cross-encoder" if "preset" in outcome else outcome.split("`")[1]
    with Reranker.from_pretrained(str(folder), dtype="float32", device="cpu") as reranker:
        assert reranker.name == method
        if method == "cross-encoder":
            first, second = ([hit.score for hit in reranker.rank("w1", ["w2", "w3 w4"])] for _ in range(2))
            assert first == second
            assert None not in first


@pytest.mark.parametrize("name", ["BertModel", "MistralModel", "RobertaForMaskedLM", "XLMRobertaModel"])
def test_no_method_opens_an_encoder_as_a_language_model(name: str, tmp_path: Path) -> None:
    folder = save_random(tmp_path / "m", name, None)
    for method in ("fullrank", "pointwise", "qlm", "icr"):
        with pytest.raises(RerankError, match="which generates no text"):
            Reranker.from_pretrained(str(folder), method=method, dtype="float32", device="cpu")


def test_every_other_model_has_a_source_and_no_preset_has_its_name() -> None:
    from rerank.models import list_rerankers

    names = [model["hub_id"] for model in FACTS]
    assert len(names) == len(set(names)) >= 20
    assert not set(names) & {row["hub_id"] for row in list_rerankers()}
    assert all("https://" in model["source"] for model in FACTS)
