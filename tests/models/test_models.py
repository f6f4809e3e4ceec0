"""Resolving names of models, and opening them as backends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rerank import models
from rerank.backends.fake import Fake
from rerank.errors import DataError, MissingResourceError, UnknownNameError, UsageError
from rerank.models import MARKER, BackendOptions, open_model_backend, resolve_model_name
from rerank.reranker import Reranker
from rerank.types import Qrels
from tests.raising import raises

NAME = "smollm2-135m"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory."""
    monkeypatch.setattr("rerank.models.presets.user_cache_path", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache"


def test_an_embedded_model_that_was_not_pulled_says_how(cache: Path) -> None:
    with raises(MissingResourceError, f"rerank models pull {NAME}"):
        resolve_model_name(NAME)
    models.model_folder(NAME).mkdir(parents=True)
    (models.model_folder(NAME) / "config.json").write_text("{}")
    with pytest.raises(MissingResourceError):
        resolve_model_name(NAME)
    (models.model_folder(NAME) / MARKER).write_text("{}")
    assert resolve_model_name(NAME) == cache / "listrank" / "models" / NAME


def test_a_hub_id_is_passed_on() -> None:
    assert resolve_model_name("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"


def test_unknown_names_get_suggestions() -> None:
    with raises(UnknownNameError, f"'{NAME}'"):
        resolve_model_name("smollm-135m")


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "~/none", "a/b/c"])
def test_paths_that_are_not_there(name: str) -> None:
    with raises(MissingResourceError, f"{name!r}"):
        resolve_model_name(name)


def test_an_empty_folder_with_the_name_of_a_reranker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("qwen3-reranker-0.6b").mkdir()
    with raises(MissingResourceError, "--model Qwen/Qwen3-Reranker-0.6B"):
        resolve_model_name("qwen3-reranker-0.6b")


def test_folders_are_checked_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with raises(MissingResourceError, "config.json"):
        resolve_model_name(str(folder))
    (folder / "adapter_config.json").write_text("{}")
    with raises(MissingResourceError, "--adapter"):
        resolve_model_name(str(folder))
    (folder / "config.json").write_text("{}")
    with raises(MissingResourceError, ".safetensors"):
        resolve_model_name(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"")
    with raises(DataError, "pytorch_model.bin"):
        resolve_model_name(str(folder))
    (folder / "model.safetensors").write_bytes(b"")
    assert resolve_model_name(str(folder)) == folder
    with raises(DataError, "config.json"):
        resolve_model_name(str(folder / "config.json"))


def test_fakes_open_with_their_options_and_ours() -> None:
    qrels = Qrels({"q": {"d": 1}})
    options = BackendOptions(batch_size=3, context_size=99)
    fake = open_model_backend("fake:stutter,p=0.7,seed=5", options, qrels=qrels)
    assert isinstance(fake, Fake)
    assert (fake.kind, fake.p, fake.seed, fake.batch_size, fake.context_size) == ("stutter", 0.7, 5, 3, 8192)
    assert fake.qrels is qrels
    assert open_model_backend("fake:reversed").batch_size == 8


@pytest.mark.parametrize(
    ("selector", "error", "message"),
    [
        ("fake:prefect", UnknownNameError, "Did you mean 'perfect'"),
        ("fake:perfect,sede=1", UnknownNameError, "Did you mean 'seed'"),
        ("fake:perfect,qrels=x", UsageError, "qrels='x'"),
        ("fake:", UsageError, "fake:"),
        ("fake", UnknownNameError, "fake:perfect"),
        ("gpt-4o-mini", UnknownNameError, "openai:gpt-4o-mini"),
        ("replay:x", UsageError, "rerank replay"),
        ("hf:smolm2-135m", UnknownNameError, f"Did you mean '{NAME}'"),
        ("nothing:x", UnknownNameError, "Unknown model 'nothing:x'"),
    ],
)
def test_selectors_that_cannot_be_opened(selector: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        open_model_backend(selector)
    assert message in str(caught.value)


def test_everything_else_is_loaded_by_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.backends.hf import Hf

    loaded: list[Any] = []
    monkeypatch.setattr(Hf, "load", lambda *arguments: loaded.append(arguments))
    options = BackendOptions(dtype="float32")
    open_model_backend("owner/model", options)
    open_model_backend("hf:owner/model")
    assert loaded == [("owner/model", options), ("owner/model", BackendOptions())]


def test_opening_names_imports_no_torch() -> None:
    code = "import sys, rerank.models as m; m.open_model_backend('fake:reversed'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", [NAME, f"hf:{NAME}", f"vllm:{NAME}"])
def test_the_prompt_that_suits_a_model_is_the_same_whoever_runs_it(name: str) -> None:
    assert models.prompt_for_model(name) == "listwise_examples"
    assert models.prompt_for_model(name, "listwise") == "listwise"


def test_a_backend_that_cannot_is_refused_before_a_model_is_loaded() -> None:
    with raises(UsageError, "'vllm'", "AttentionTask", "--model hf:NAME"):
        Reranker.from_pretrained("vllm:./none", method="icr")


@pytest.mark.parametrize("model", ["fake:reversed", "org/some-model", "vllm:org/some-model"])
def test_a_servers_address_for_a_model_that_asks_none_is_refused(model: str) -> None:
    with raises(UsageError, "--base-url", model, "--model openai:NAME"):
        open_model_backend(model, BackendOptions(base_url="http://127.0.0.1:9/v1"))


def test_an_embedding_model_does_not_judge() -> None:
    with raises(UsageError, "embedding model", "--first-stage dense:all-minilm-l6-v2"):
        open_model_backend("all-minilm-l6-v2")
