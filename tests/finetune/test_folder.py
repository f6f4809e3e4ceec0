"""Sending what a training left to the hub: what goes, what stays, and what is said when it does not work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub")

from rerank.errors import BackendError, MissingResourceError  # noqa: E402
from rerank.finetune.trainer.adapter_folder import hub_id, push_adapter_to_hub  # noqa: E402
from rerank.models.adapters import AdapterSettings  # noqa: E402
from tests.raising import raises  # noqa: E402


class Hub:
    """Stands in for the hub's client: takes what is allowed, as the real one filters it."""

    def __init__(self) -> None:
        self.made: list[tuple[str, bool]] = []
        self.taken: list[str] = []
        self.error: Exception | None = None

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
        if self.error:
            raise self.error
        assert exist_ok
        self.made.append((name, private))
        return f"https://hub/{name}"

    def upload_folder(self, **given: Any) -> None:
        from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

        root = Path(given["folder_path"])
        paths = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
        allowed, ignored = given["allow_patterns"], given["ignore_patterns"]
        self.taken = sorted(filter_repo_objects(paths, allow_patterns=allowed, ignore_patterns=ignored))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    AdapterSettings(model="smollm2-135m", method="fullrank").write(tmp_path)
    names = (
        "adapter_config.json",
        "adapter_model.safetensors",
        "prompt.yaml",
        "README.md",
        "recipe.json",
        "heads.json",
    )
    leftovers = ("checkpoints/checkpoint-2/trained.safetensors", "best/trained.safetensors", "tensorboard/events")
    for name in (*names, *leftovers, "metrics.jsonl", "trained.trec"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def test_the_adapter_goes_and_the_training_stays(hub: Hub, folder: Path) -> None:
    assert push_adapter_to_hub(folder, "me/mine") == "https://hub/me/mine"
    assert hub.made == [("me/mine", True)]
    assert hub.taken == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "heads.json", "prompt.yaml"),
        *("recipe.json", "rerank.json"),
    ]


def test_a_folder_without_a_trained_adapter(hub: Hub, tmp_path: Path) -> None:
    with raises(MissingResourceError, str(tmp_path), "rerank.json"):
        push_adapter_to_hub(tmp_path, "me/mine")
    assert hub.made == []


def test_a_hub_that_refuses(hub: Hub, folder: Path) -> None:
    hub.error = OSError("no network")
    with raises(BackendError, "me/mine", "no network", "HF_TOKEN"):
        push_adapter_to_hub(folder, "me/mine")


def test_models_are_called_what_others_call_them() -> None:
    assert hub_id("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert hub_id("owner/name") == "owner/name"
