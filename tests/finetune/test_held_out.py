"""Lists that are held out of a training: how they are chosen, their loss, and what it selects and ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.finetune.recipe import Recipe, ValidationTable

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from rerank.finetune.trainer.schedule import read_lists
from rerank.finetune.trainer.training import train_adapter
from rerank.finetune.trainer.training_folder import list_checkpoints
from rerank.finetune.trainer.validation import Validation
from tests.finetune.small import collection_folder, recipe, validation
from tests.raising import raises

SHARE = {"share": 0.3, "every": 2}


def looks(folder: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5])
def test_a_share_is_taken_out_by_query(model: Path, collection: Path, share: float) -> None:
    def held_out_queries(seed: int) -> set[str]:
        asked = recipe(model, collection, seed=seed, validation={"share": share})
        train, held = ({entry.query.text for entry in part} for part in read_lists(asked))
        assert train
        assert not train & held
        assert len(held) == max(1, round(share * len(train | held)))
        return held

    assert held_out_queries(3) == held_out_queries(3)
    assert len({frozenset(held_out_queries(seed)) for seed in range(5)}) > 1


def test_its_loss_selects_the_weights_and_is_the_same_after_a_resume(
    model: Path, collection: Path, tmp_path: Path
) -> None:
    # Dropout would show if the loss were measured in training mode, and a high rate makes the last weights the worst.
    asked = recipe(model, collection, validation={"share": 0.3, "every": 1}, optimizer={"name": "sgd", "lr": 30.0})
    result = train_adapter(asked, tmp_path / "whole", device="cpu")
    losses = looks(tmp_path / "whole", "eval_loss")
    assert losses == looks(tmp_path / "whole", "eval_loss_importance")
    assert result.validation == {"held-out loss": pytest.approx(min(losses), abs=1e-6)}
    assert result.first_stage == {}
    assert f"held-out lists: {min(losses):.4f}" in (tmp_path / "whole" / "README.md").read_text()
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (tmp_path / "parts" / "result.json").unlink()
    shutil.rmtree(list_checkpoints(tmp_path / "parts")[-1])
    again = train_adapter(asked, tmp_path / "parts", device="cpu", resume=True)
    assert (again.validation, looks(tmp_path / "parts", "eval_loss")) == (result.validation, losses)
    adapters = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert adapters[0] == adapters[1]


def test_the_loss_ends_a_training_that_gets_worse(model: Path, collection: Path, tmp_path: Path) -> None:
    table = {"share": 0.3, "every": 1, "patience": 1}
    asked = recipe(model, collection, validation=table, optimizer={"name": "sgd", "lr": 1000.0}, training={"steps": 12})
    result = train_adapter(asked, tmp_path, device="cpu")
    losses = looks(tmp_path, "eval_loss")
    assert result.steps == len(losses) < 12
    assert losses[-1] >= min(losses[:-1])


@pytest.mark.parametrize("measure", ["nDCG@10", "loss"])
def test_lists_and_a_collection(model: Path, collection: Path, tmp_path: Path, measure: str) -> None:
    other = collection_folder(tmp_path / "other", seed=5)
    lists = {"lists": [str(other / "labels.jsonl")], "documents_in": f"jsonl:{other}", "measure": measure}
    asked = recipe(model, collection, validation=validation(collection, **lists))
    result = train_adapter(asked, tmp_path / "out", device="cpu")
    assert len(looks(tmp_path / "out", "eval_loss")) == len(looks(tmp_path / "out", "eval_nDCG@10")) == 2
    assert set(result.validation) == {"nDCG@10", "held-out loss"}
    state = json.loads((list_checkpoints(tmp_path / "out")[-1] / "trainer_state.json").read_text())
    best = {"nDCG@10": max, "loss": min}[measure](looks(tmp_path / "out", f"eval_{measure}"))
    assert state["best_metric"] == best


def test_a_measure_that_does_not_exist_is_refused_before_the_training(collection: Path) -> None:
    with raises(UnknownNameError, "ndgc"):
        Validation.of(ValidationTable(**validation(collection, measure="ndgc@10")))


def test_a_held_out_query_that_is_trained_on_is_refused(model: Path, collection: Path, tmp_path: Path) -> None:
    asked = recipe(model, collection, validation={"lists": [str(collection / "labels.jsonl")]})
    with raises(DataError, "also in the training lists", "rerank label split"):
        train_adapter(asked, tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({}, "no held-out data"),
        ({"collection": "pydoc", "measure": "loss"}, "cannot be computed without data"),
        ({"share": 0.2, "measure": "AP"}, "collection"),
        ({"share": 1.0}, "share"),
    ],
)
def test_a_table_that_validates_nothing_is_refused(table: dict[str, Any], named: str) -> None:
    with raises(UsageError, named):
        Recipe.make({"data": {"lists": ["x"]}, "validation": table})


def test_an_objective_has_no_loss_on_lists() -> None:
    with raises(UsageError, "grpo", "collection"):
        Recipe.make({"data": {"lists": ["x"]}, "objective": {"name": "grpo"}, "validation": {"share": 0.1}})


def test_a_recipe_without_held_out_lists_is_read_as_before() -> None:
    made = Recipe.make({"data": {"lists": ["x"]}, "validation": {"collection": "pydoc"}})
    assert made.validation
    assert (made.validation.measure, made.validation.has_lists) == ("nDCG@10", False)
