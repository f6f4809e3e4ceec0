"""What an adapter's folder says of its own use."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.lm.loading import adapter_folder
from rerank.methods import open_method
from rerank.models import MODELS, known_models, resolve
from rerank.models.trained import HEADS, PROMPT, SETTINGS, Trained, as_trained, read_trained, shipped

SAID = Trained(model="smollm2-135m", method="icr,calibrate=false,heads=heads.json", max_passage_tokens=64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SAID.write(tmp_path)
    (tmp_path / HEADS).write_text("{}")
    (tmp_path / PROMPT).write_text("method: listwise\n")
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    assert read_trained(folder) == SAID


def test_it_decides_what_the_user_does_not(folder: Path) -> None:
    assert as_trained(folder, {}) == {
        "model": "smollm2-135m",
        "method": f"icr,calibrate=false,heads={folder / HEADS}",
        "min_passage_tokens": 32,
        "max_passage_tokens": 64,
        "prompt": str(folder / PROMPT),
    }
    assert as_trained(folder, {"prompt": "listwise", "max_passage_tokens": 10}).keys() == {
        "model",
        "method",
        "min_passage_tokens",
    }


def test_another_method_gets_the_model_only(folder: Path) -> None:
    assert as_trained(folder, {"method": "sliding"}) == {"model": "smollm2-135m"}


def test_adapters_of_others_say_nothing(tmp_path: Path) -> None:
    assert read_trained(tmp_path) is None
    assert as_trained(tmp_path, {}) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1}', "no json"])
def test_files_that_say_something_else(tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS).write_text(text)
    with pytest.raises(DataError, match="format 1"):
        read_trained(tmp_path)


@pytest.mark.parametrize("name", shipped())
def test_adapters_that_come_along_are_whole(name: str) -> None:
    folder = shipped()[name]
    said = read_trained(folder)
    assert said is not None
    assert MODELS[said.model].kind == "language"
    open_method(as_trained(folder, {})["method"])
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20 * 2**20
    card = (folder / "README.md").read_text(encoding="utf-8")
    for words in ("license:", "base_model:", "nDCG@10"):
        assert words in card
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".yaml", ".safetensors", ".md", ".toml"}


def test_they_are_known_by_name() -> None:
    name = next(iter(shipped()))
    assert adapter_folder(name) == shipped()[name]
    assert name in [row["name"] for row in known_models()]
    with pytest.raises(UsageError, match=f"--adapter {name}"):
        resolve(name)
    with pytest.raises(MissingResourceError, match=name):
        adapter_folder("smollm2-atention")
