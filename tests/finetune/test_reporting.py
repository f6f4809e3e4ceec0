"""Services that metrics are reported to: names, missing packages, files, and no keys in them."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rerank.errors import BackendError, MissingPrerequisiteError, UnknownNameError, UsageError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from transformers import integrations

from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import pick_reporting_services, reporting_environment, train_adapter
from tests.finetune.small import recipe
from tests.raising import raises

KEY = "0123456789abcdef0123456789abcdef01234567"


class FakeWandb(ModuleType):
    """The part of wandb that transformers' callback uses; it records what it is given."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.run: Any = None
        self.started: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.config = SimpleNamespace(update=lambda values, **_: self.started[-1].update(config=values))

    def init(self, **options: Any) -> None:
        mode = {key: os.environ.get(f"WANDB_{key}") for key in ("MODE", "DIR")}
        self.started.append({**options, **mode})
        self.run = SimpleNamespace(_label=lambda **_: None, summary={}, name="run", url="", id="1")

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log(self, values: dict[str, Any], *_: Any, **__: Any) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.run = None


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    config_util = ModuleType("wandb.sdk.lib.config_util")
    config_util.ConfigError = ValueError  # type: ignore[attr-defined]
    for name in ("wandb.sdk", "wandb.sdk.lib"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, config_util.__name__, config_util)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    utils = integrations.integration_utils
    monkeypatch.setattr(utils, "is_wandb_available", lambda: True)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return fake


def test_a_training_is_reported_to_wandb_offline_and_without_the_key(
    model: Path, collection: Path, tmp_path: Path, wandb: FakeWandb
) -> None:
    folder = tmp_path / "out"
    train_adapter(recipe(model, collection), folder, device="cpu", report_to=["wandb"])
    (started,) = wandb.started
    assert (started["MODE"], started["DIR"], started["project"]) == ("offline", str(folder), "rerank")
    assert [line["train/loss"] for line in wandb.logged if "train/loss" in line]
    assert wandb.run is None
    assert "WANDB_MODE" not in os.environ
    assert KEY not in repr((wandb.started, wandb.logged))
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not (folder / "tensorboard").exists()


def test_a_service_that_fails_is_named(
    model: Path, collection: Path, tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise type("CommError", (Exception,), {"__module__": "wandb.errors"})("no key")

    monkeypatch.setattr(wandb, "init", refuse)
    with raises(BackendError, "no key", "--report-to none"):
        train_adapter(recipe(model, collection), tmp_path, device="cpu", report_to=["wandb"])


def test_another_service_does_not_prevent_resuming(
    model: Path, collection: Path, tmp_path: Path, wandb: FakeWandb
) -> None:
    asked = recipe(model, collection)
    whole = train_adapter(asked, tmp_path / "out", device="cpu", report_to=["none"])
    assert train_adapter(asked, tmp_path / "out", device="cpu", resume=True, report_to=["wandb"]).loss == whole.loss


def test_a_missing_service_is_reported_before_the_model_is_looked_for(tmp_path: Path) -> None:
    asked = Recipe.make({"model": "absent/model", "data": {"lists": ["x"]}})
    with raises(MissingPrerequisiteError, "pip install comet-ml"):
        train_adapter(asked, tmp_path, device="cpu", report_to=["comet_ml"])
    with raises(UnknownNameError, "wandb"):
        train_adapter(asked, tmp_path, device="cpu", report_to=["wanbd"])


def test_services_are_listed_once_and_none_is_no_service() -> None:
    assert pick_reporting_services(["none"]) == []
    assert set(pick_reporting_services(None)) <= {"tensorboard"}
    with raises(UsageError, "wandb"):
        pick_reporting_services(["none", "wandb"])
    with raises(UnknownNameError, "tensorboard", "mlflow"):
        pick_reporting_services(["nothing"])


def test_what_the_environment_sets_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with reporting_environment(tmp_path, []):
        assert os.environ["WANDB_MODE"] == "online"
        assert os.environ["MLFLOW_TRACKING_URI"] == f"file://{tmp_path}/mlruns"
    assert "MLFLOW_TRACKING_URI" not in os.environ
