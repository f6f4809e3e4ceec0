"""Settings in the folder of an adapter, and the defaults that they give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank.assemble import complete_settings
from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.methods import open_method
from rerank.models import MODELS, list_models, model_folder, model_settings_folder, resolve_model_name
from rerank.models.adapters import (
    HEADS,
    PROMPT,
    SETTINGS,
    AdapterSettings,
    adapter_folder,
    read_defaults,
    read_settings,
    shipped_adapters,
)
from tests.raising import raises

SAID = AdapterSettings(model="smollm2-135m", method="icr,calibrate=false,heads=heads.json", max_passage_tokens=64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SAID.write(tmp_path)
    (tmp_path / HEADS).write_text("{}")
    (tmp_path / PROMPT).write_text("method: listwise\n")
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    assert read_settings(folder) == SAID


def test_it_decides_what_the_user_does_not(folder: Path) -> None:
    assert read_defaults(folder, {}) == {
        "model": "smollm2-135m",
        "method": f"icr,calibrate=false,heads={folder / HEADS}",
        "min_passage_tokens": 32,
        "max_passage_tokens": 64,
        "prompt": str(folder / PROMPT),
    }
    assert read_defaults(folder, {"prompt": "listwise", "max_passage_tokens": 10}).keys() == {
        "model",
        "method",
        "min_passage_tokens",
    }


def test_another_method_gets_the_model_only(folder: Path) -> None:
    assert read_defaults(folder, {"method": "sliding"}) == {"model": "smollm2-135m"}


def test_adapters_of_others_say_nothing(tmp_path: Path) -> None:
    assert read_settings(tmp_path) is None
    assert read_defaults(tmp_path, {}) == {}


MISSPELT = '{"format": 1, "model": "m", "method": "fullrank", "max_pasage_tokens": 3}'


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1}', "no json", MISSPELT])
def test_files_that_say_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS).write_text(text)
    with raises(DataError, "format 1", SETTINGS):
        read_settings(tmp_path)


def test_a_selector_is_the_folder_that_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for selector in ("merged", "hf:merged", "vllm:merged", "cross-encoder:merged", "./merged"):
        assert model_settings_folder(selector) == Path("merged")
    assert model_settings_folder("~/merged") == model_settings_folder("hf:~/merged") == tmp_path / "merged"
    assert model_settings_folder("openai:merged") is model_settings_folder("fake:perfect") is None


def test_a_preset_precedes_a_folder_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smollm2-135m").mkdir()
    SAID.write(tmp_path / "smollm2-135m")
    monkeypatch.chdir(tmp_path)
    assert (
        model_settings_folder("smollm2-135m")
        == model_settings_folder("hf:smollm2-135m")
        == model_folder("smollm2-135m")
    )
    assert complete_settings({"model": "smollm2-135m"}).method == MODELS["smollm2-135m"].recipe["method"]
    assert complete_settings({"model": "./smollm2-135m"}).method == SAID.method


def test_an_adapter_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shipped = next(iter(shipped_adapters().values()))
    (tmp_path / "adapter").symlink_to(shipped)
    assert adapter_folder("~/adapter") == tmp_path / "adapter"


@pytest.mark.parametrize("name", shipped_adapters())
def test_adapters_that_come_along_are_whole(name: str) -> None:
    folder = shipped_adapters()[name]
    said = read_settings(folder)
    assert said is not None
    assert MODELS[said.model].kind == "language"
    open_method(read_defaults(folder, {})["method"])
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20 * 2**20
    card = (folder / "README.md").read_text(encoding="utf-8")
    for words in ("license:", "base_model:", "nDCG@10"):
        assert words in card
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".yaml", ".safetensors", ".md", ".toml"}


def test_they_are_known_by_name() -> None:
    name = next(iter(shipped_adapters()))
    assert adapter_folder(name) == shipped_adapters()[name]
    assert name in [row["name"] for row in list_models()]
    with raises(UsageError, f"--adapter {name}"):
        resolve_model_name(name)
    with raises(MissingResourceError, name):
        adapter_folder("smollm2-atention")


class TestBaseModel:
    """An adapter of peft without settings of ours names its base model only in its configuration."""

    @staticmethod
    def adapter(folder: Path, **config: object) -> str:
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
        (folder / "adapter_model.safetensors").write_bytes(b"")  # nothing is loaded
        return str(folder)

    def test_is_that_of_the_configuration(self, tmp_path: Path) -> None:
        adapter = self.adapter(tmp_path, base_model_name_or_path="org/base", revision="v1")
        config = complete_settings({"adapter": adapter})
        assert (config.model, config.revision) == ("org/base", "v1")
        config = complete_settings({"adapter": adapter, "model": "org/other"})
        assert (config.model, config.revision) == ("org/other", None)

    def test_may_be_a_folder_or_a_model_that_comes_with_the_package(self, tmp_path: Path) -> None:
        base = tmp_path / "base"
        base.mkdir()
        assert complete_settings({"adapter": self.adapter(tmp_path, base_model_name_or_path=str(base))}).model == str(
            base
        )
        hub_id = MODELS["smollm2-135m"].hub_id
        assert complete_settings({"adapter": self.adapter(tmp_path, base_model_name_or_path=hub_id)}).model in (
            "smollm2-135m",
            hub_id,
        )

    @pytest.mark.parametrize("base", ["/data/of/somebody/else", "", None])
    def test_that_is_not_here_is_asked_for(self, base: str | None, tmp_path: Path) -> None:
        adapter = self.adapter(tmp_path, base_model_name_or_path=base)
        with raises(UsageError, adapter, base or "names no base model", f"--model BASE_MODEL --adapter {adapter}"):
            complete_settings({"adapter": adapter})
