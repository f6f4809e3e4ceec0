"""`rerank train`: what the command hands to a training, and how it refuses recipes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest

from rerank.finetune.trainer import training
from tests.cli.conftest import Cli

RECIPE = '[data]\nlists = ["lists.jsonl"]\n'


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A training that takes the arguments of the real one, and no others."""
    fields = {field.name: 0 for field in dataclasses.fields(training.TrainingResult)}
    result = training.TrainingResult(**{**fields, "folder": "out", "first_stage": {}, "validation": {}})  # type: ignore[arg-type]
    run = create_autospec(training.train_adapter, return_value=result)
    monkeypatch.setattr(training, "train_adapter", run)
    Path("recipe.toml").write_text(RECIPE)
    return run


def test_the_options_reach_the_training(cli: Cli, trained: Any) -> None:
    flags = ("--device", "cpu", "--report-to", "none", "--resume", "--format", "json")
    done = cli("train", "recipe.toml", "--out", "out", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == "out"
    ((recipe, out), given) = trained.call_args
    assert (recipe.data.lists, out) == (("lists.jsonl",), Path("out"))
    assert (given["device"], given["report_to"], given["resume"]) == ("cpu", ["none"], True)


@pytest.mark.parametrize("flags", [(), ("--dry-run",), ("--push", "me/mine")])
def test_without_torch_it_says_what_to_install(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    Path("recipe.toml").write_text(RECIPE)
    monkeypatch.setattr("rerank.installation.find_spec", lambda name: None)
    done = cli("train", "recipe.toml", "--out", "out", *flags)
    assert done.returncode == 3, done.stderr
    assert "packages that are not installed" in done.stderr
    assert "[train]" in done.stderr
