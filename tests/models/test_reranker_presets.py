"""Presets of rerankers: what they state, how models are recognised, and what the method ``auto`` becomes."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from rerank.assemble import assemble_ranker, complete_settings
from rerank.errors import UnknownNameError, UsageError
from rerank.models import list_rerankers, resolve_model_name
from rerank.models.download import pull_model
from rerank.models.presets import recognise_reranker, reranker_presets
from rerank.prompts import load_prompt, prompt_names
from rerank.settings import RankerSettings
from tests.raising import raises

PRESETS = reranker_presets()
RUNNABLE = [name for name, preset in PRESETS.items() if preset.recipe]


def config(**settings: Any) -> RankerSettings:
    return complete_settings(settings)


def save_config(folder: Path, **content: Any) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


def test_at_least_25_rerankers_of_6_families_are_verified() -> None:
    rows = [row for row in list_rerankers() if row["verified"]]
    assert len(rows) >= 25
    assert len({row["family"] for row in rows}) >= 6
    for row in rows:
        assert all(row[key] for key in ("name", "family", "kind", "licence", "source", "hub_id", "method"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_its_source(name: str) -> None:
    preset = PRESETS[name]
    assert preset.hub_id.count("/") == 1
    assert preset.recipe or preset.note
    assert preset.facts
    if preset.source:
        assert re.fullmatch(r"[0-9a-f]{40}", preset.source.commit)
        assert preset.source.address.startswith(f"https://github.com/{preset.source.repository}/blob/")
    for figure in preset.published:
        assert {"value", "measure", "collection", "first_stage", "depth", "measured_by"} == figure.keys()


@pytest.mark.parametrize("name", RUNNABLE)
def test_auto_takes_the_recipe_by_name_and_by_hub_id(name: str) -> None:
    preset = PRESETS[name]
    if not preset.base:
        assert resolve_model_name(name) == preset.hub_id
    for model in (name, preset.hub_id) if preset.recognise.hub else (name,):
        assert recognise_reranker(model) == preset
        chosen = config(model=model)
        assert preset.recipe.items() <= vars_of(chosen).items()
    assemble_ranker(config(model=name))


def vars_of(chosen: RankerSettings) -> dict[str, Any]:
    return {key: getattr(chosen, key) for key in RankerSettings.model_fields}


def test_the_name_of_a_prompt_states_its_source() -> None:
    for name in {preset.recipe.get("prompt") for preset in PRESETS.values()} - {None}:
        assert name in prompt_names()
        template = load_prompt(str(name))
        assert template.verbatim or template.system or template.prefix


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("qwen/qwen3-reranker-4b", "qwen3-reranker-4b"),
        ("someone/Qwen3-Reranker-8B-finetuned", "qwen3-reranker-8b"),
        ("dragonkue/bge-reranker-v2-m3-ko", "bge-reranker-v2-m3"),
        ("zeroentropy/zerank-2", "zerank-2"),
        ("tomaarsen/Qwen3-Reranker-0.6B-seq-cls", "qwen3-reranker-0.6b-seq-cls"),
        ("Qwen/Qwen3-0.6B", None),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", None),
        ("smollm2-135m", None),
    ],
)
def test_hub_ids_are_recognised(model: str, name: str | None) -> None:
    found = recognise_reranker(model)
    assert (found.name if found else None) == name


def test_folders_are_recognised_by_name_and_class(tmp_path: Path) -> None:
    causal, classifier = ["Qwen3ForCausalLM"], ["Qwen3ForSequenceClassification"]
    named = save_config(tmp_path / "Qwen3-Reranker-4B", architectures=causal)
    cached = save_config(tmp_path / "models--Qwen--Qwen3-Reranker-8B/snapshots/0a1b", architectures=causal)
    stated = save_config(tmp_path / "m", architectures=causal, _name_or_path="Qwen/Qwen3-Reranker-0.6B")
    other_class = save_config(tmp_path / "b" / "Qwen3-Reranker-4B", architectures=classifier)
    unknown = save_config(tmp_path / "model", architectures=causal)
    (tmp_path / "zerank-2").mkdir()
    found = [
        recognise_reranker(folder) for folder in (named, cached, stated, other_class, unknown, tmp_path / "zerank-2")
    ]
    names = [preset and preset.name for preset in found]
    assert names == ["qwen3-reranker-4b", "qwen3-reranker-8b", "qwen3-reranker-0.6b", None, None, None]


def test_folders_are_recognised_by_their_content(tmp_path: Path) -> None:
    """A folder that was renamed still has its class and its chat template."""
    layers = save_config(tmp_path / "a", architectures=["LayerWiseMiniCPMForCausalLM"])
    in_file, in_settings, other_class = (
        save_config(tmp_path / name, architectures=[f"{kind}ForCausalLM"])
        for name, kind in (("b", "Qwen3"), ("c", "Qwen3"), ("d", "Llama"))
    )
    template = "{{ 'Judge whether the Document meets the requirements based on the Query and the Instruct provided.' }}"
    for folder in (in_file, other_class):
        (Path(folder) / "chat_template.jinja").write_text(template, encoding="utf-8")
    (Path(in_settings) / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    found = [recognise_reranker(folder) for folder in (layers, in_file, in_settings, other_class)]
    families = [preset and preset.family for preset in found]
    assert families == ["bge-reranker-layerwise", "qwen3-reranker", "qwen3-reranker", None]


def test_a_folder_takes_precedence_over_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(save_config(tmp_path / "zerank-2"))
    (folder / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve_model_name("zerank-2") == Path("zerank-2")


def test_settings_of_the_user_override_the_recipe() -> None:
    chosen = config(model="qwen3-reranker-0.6b", max_passage_tokens=100, prompt="pointwise")
    assert (chosen.method, chosen.prompt, chosen.max_passage_tokens) == ("pointwise,yes=yes,no=no", "pointwise", 100)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "Qwen/Qwen3-Reranker-0.6B", "method": "fullrank"},
        {"model": "Qwen/Qwen3-Reranker-0.6B", "method": "pointwise"},
        {"model": "Qwen/Qwen3-Reranker-0.6B", "prompt": "pointwise"},
        {"model": "openai:Qwen/Qwen3-Reranker-0.6B"},
    ],
)
def test_another_method_or_prompt_is_a_warning(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rerank"):
        assemble_ranker(settings)
    (record,) = caplog.records
    assert "qwen3-reranker-0.6b" in record.getMessage()


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "Qwen/Qwen3-Reranker-0.6B"},
        {"model": "qwen3-reranker-0.6b", "method": "pointwise,yes=yes,no=no", "prompt": "qwen3_reranker"},
        {"model": "BAAI/bge-reranker-v2-m3", "method": "cross-encoder,first_stage=0"},
        {"model": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    ],
)
def test_the_method_of_the_preset_is_no_warning(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rerank"):
        assemble_ranker(settings)
    assert caplog.records == []


@pytest.mark.parametrize("model", ["openai:Qwen/Qwen3-Reranker-0.6B", "vlm:Qwen/Qwen3-Reranker-0.6B"])
def test_backends_with_a_chat_template_refuse_the_prompt(model: str) -> None:
    setup = assemble_ranker({"model": model, "method": "pointwise,yes=yes,no=no", "prompt": "qwen3_reranker"})
    with raises(UsageError, "qwen3_reranker", model):
        setup.check_backend()


def test_rerankers_that_cannot_be_run_are_refused_with_the_reason() -> None:
    for name, preset in PRESETS.items():
        if not preset.recipe:
            with raises(UsageError, name, preset.note):
                config(model=name)
            assert config(model=name, method="pointwise").method == "pointwise"


def test_an_adapter_is_no_model() -> None:
    adapters = [preset for preset in PRESETS.values() if preset.base]
    assert "rank-r1-7b" in {preset.name for preset in adapters}
    for preset in adapters:
        for model in (preset.name, preset.hub_id):
            with raises(UsageError, preset.base, f"--adapter {preset.hub_id}"):
                resolve_model_name(model)
        with raises(UsageError, f"--adapter {preset.hub_id}"):
            pull_model(preset.name)


def test_an_unknown_name_suggests_presets() -> None:
    with raises(UnknownNameError, "qwen3-reranker-0.6b"):
        resolve_model_name("qwen3-reranker-0.5b")
