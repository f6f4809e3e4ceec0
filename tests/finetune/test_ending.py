"""How trainings end: what is kept and said after early ends and resumes, and what joint losses leave behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rerank.errors import DataError, StorageError, UsageError  # noqa: E402
from rerank.experiment import run_experiment  # noqa: E402
from rerank.experiment.spec import Execution, RunSpec  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from rerank.finetune.trainer.training_folder import list_checkpoints  # noqa: E402
from tests.finetune.small import ATTENTION, recipe, validation  # noqa: E402
from tests.raising import raises  # noqa: E402


def looks(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "eval_nDCG@10" in line]


def test_the_last_step_is_looked_at(model: Path, collection: Path, tmp_path: Path) -> None:
    train_adapter(
        recipe(model, collection, training={"steps": 5}, validation=validation(collection)), tmp_path, device="cpu"
    )
    assert looks(tmp_path) == [2, 4, 5]


def test_patience_that_had_ended_stays_at_its_end(model: Path, collection: Path, tmp_path: Path) -> None:
    asked = recipe(
        model,
        collection,
        optimizer={"lr": 1e-9},
        training={"steps": 20, "save_every": 1},
        validation=validation(collection, every=1, patience=2),
    )
    first = train_adapter(asked, tmp_path, device="cpu")
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    (tmp_path / "result.json").unlink()
    again = train_adapter(asked, tmp_path, device="cpu", resume=True)
    assert (first.steps, first.validation) == (again.steps, again.validation)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before
    assert looks(tmp_path) == [1, 2, 3]


def test_the_loss_is_told_after_a_resume_too(model: Path, collection: Path, tmp_path: Path) -> None:
    asked = recipe(model, collection)
    first = train_adapter(asked, tmp_path, device="cpu")
    (tmp_path / "result.json").unlink()
    again = train_adapter(asked, tmp_path, device="cpu", resume=True)
    assert first.loss == again.loss > 0


def test_a_line_that_was_cut_off_is_written_again(model: Path, collection: Path, tmp_path: Path) -> None:
    asked = recipe(model, collection)
    train_adapter(asked, tmp_path, device="cpu")
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "result.json").unlink()
    *_, last = list_checkpoints(tmp_path)
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    (tmp_path / "metrics.jsonl").write_text(whole[: whole.rindex("{") + 9])
    train_adapter(asked, tmp_path, device="cpu", resume=True)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [step for step in steps if step <= 4][:4] == [1, 2, 3, 4]


def test_what_a_killed_process_left_is_removed(model: Path, collection: Path, tmp_path: Path) -> None:
    asked = recipe(model, collection)
    train_adapter(asked, tmp_path, device="cpu")
    checkpoints = list_checkpoints(tmp_path)
    shutil.copytree(checkpoints[0], checkpoints[0].with_name("checkpoint-1"))  # killed before it was removed
    (tmp_path / "result.json").unlink()
    train_adapter(asked, tmp_path, device="cpu", resume=True)
    assert list_checkpoints(tmp_path) == checkpoints
    assert (tmp_path / "metrics.jsonl").read_text().count("train_runtime") == 1


def test_another_number_of_processes_is_refused(
    model: Path, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainingArguments

    asked = recipe(model, collection)
    train_adapter(asked, tmp_path, device="cpu")
    (tmp_path / "result.json").unlink()
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with raises(UsageError, "2 lists", "4", "torchrun"):
        train_adapter(asked, tmp_path, device="cpu", resume=True)


def test_a_joint_loss_keeps_the_whole_model_and_its_method(model: Path, collection: Path, tmp_path: Path) -> None:
    asked = recipe(
        model,
        collection,
        losses=[{"name": "importance"}, {"name": "infonce", "on": "attention"}],
        readout={"layers": "1-1"},
        validation=validation(collection),
    )
    train_adapter(asked, tmp_path / "out", device="cpu")
    names = json.loads((tmp_path / "out" / "rerank.json").read_text())
    assert names["method"] == "fullrank"
    assert not (tmp_path / "out" / "heads.json").exists()
    from safetensors import safe_open

    with safe_open(str(tmp_path / "out" / "adapter_model.safetensors"), "pt") as file:
        assert any(".layers.2." in name for name in file.keys())  # noqa: SIM118
    spec = RunSpec(collection=f"jsonl:{collection}", depth=4, max_queries=1, adapter=str(tmp_path / "out"))
    assert run_experiment(spec, Execution(out=tmp_path / "run", device="cpu"))["queries"] == 1


def test_a_method_that_calibrates_is_not_trained_for(model: Path, collection: Path, tmp_path: Path) -> None:
    asked = recipe(model, collection, **{**ATTENTION, "method": {"method": "icr"}})
    with raises(UsageError, "calibrate=false"):
        train_adapter(asked, tmp_path, device="cpu")


def test_a_list_of_many_documents_is_found_before_the_first_step(model: Path, collection: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (collection / "docs.jsonl").read_text().splitlines()]
    long = [{"id": f"long{n}", "title": "", "text": "wing " * 3000} for n in range(4)]
    short = [{"id": f"short{n}", "title": "", "text": "jet"} for n in range(60)]
    folder = tmp_path / "c"
    folder.mkdir()
    for name in ("queries.jsonl", "qrels.txt"):
        (folder / name).write_text((collection / name).read_text())
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *long, *short]))
    lists = [["long0", "long1"], ["long2", "long3"], [row["id"] for row in short]]
    (folder / "labels.jsonl").write_text(
        "".join(
            json.dumps({"qid": f"q{n}", "initial_list": one, "final_list": one}) + "\n" for n, one in enumerate(lists)
        )
    )
    asked = recipe(model, folder, data={"documents": 60}, method={"context_size": 1000})
    with raises(DataError, "60 passages", "in the recipe") as raised:
        train_adapter(asked, tmp_path / "out", device="cpu")
    assert "in the recipe" in str(raised.value)
    assert not list_checkpoints(tmp_path / "out")


def test_a_disk_that_is_full_at_the_end(
    model: Path, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerank.finetune.trainer import training_run as run

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_adapter", full)
    with raises(StorageError, "No space"):
        train_adapter(recipe(model, collection), tmp_path, device="cpu")
    monkeypatch.undo()
    assert train_adapter(recipe(model, collection), tmp_path, device="cpu", resume=True).steps == 4


def test_one_gpu_of_several_is_not_named(
    model: Path, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerank.finetune.trainer import processes, training_run

    monkeypatch.setattr(processes, "pick_device", lambda device: device)
    monkeypatch.setattr(training_run, "pick_dtype", lambda dtype, device: dtype)
    with raises(UsageError, "CUDA_VISIBLE_DEVICES=1"):
        train_adapter(recipe(model, collection), tmp_path, device="cuda:1")


def test_a_recipe_that_does_not_fit_the_model_leaves_the_folder_free(
    model: Path, collection: Path, tmp_path: Path
) -> None:
    with raises(UsageError, "atention"):
        train_adapter(
            recipe(model, collection, adapter={"name": "lora", "targets": "atention"}), tmp_path, device="cpu"
        )
    assert train_adapter(recipe(model, collection), tmp_path, device="cpu").steps == 4
