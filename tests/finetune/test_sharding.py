"""Trainings in several processes on a CPU (gloo): they come to what one process comes to, sharded or not."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402

from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.recipe import Recipe  # noqa: E402
from rerank.finetune.trainer.cost_estimate import estimate_training  # noqa: E402
from rerank.finetune.trainer.list_trainer import WEIGHTS  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from rerank.finetune.trainer.training_folder import list_checkpoints, write_checksums  # noqa: E402
from tests.finetune import sharded  # noqa: E402
from tests.finetune.small import ATTENTION, metrics, model_folder, recipe, same, validation  # noqa: E402
from tests.raising import raises  # noqa: E402

#: Its processes are forked from one that has imported torch and the trainer, which takes longer than most trainings.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["tests.finetune.sharded"])


def start(asked: Recipe, folder: Path, *, resume: bool = False, processes: int = 2) -> list[BaseProcess]:
    meeting = tempfile.mktemp(dir=folder.parent)
    arguments = (asked.model_dump_json(), folder, resume, meeting)
    started: list[BaseProcess] = []
    for rank in range(processes):
        started.append(_FORKED.Process(target=sharded.train, args=(*arguments, rank, processes)))
        started[-1].start()
    return started


def finish(processes: list[BaseProcess]) -> None:
    """Wait until all processes have ended, or one with an error."""
    deadline = time.monotonic() + 240
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):
            time.sleep(2)  # the others may be about to report the same
            break
        time.sleep(0.05)
    for process in processes:
        process.kill()
        process.join()


def run_in(processes: int, asked: Recipe, folder: Path, *, resume: bool = False) -> list[dict[str, int]]:
    """Train in several processes; return the bytes that each holds."""
    started = start(asked, folder, resume=resume, processes=processes)
    finish(started)
    assert not any(process.exitcode for process in started), [
        sharded.errors_of(folder, rank).read_text() for rank in range(processes)
    ]
    return [json.loads(sharded.held_by(folder, rank).read_text()) for rank in range(processes)]


def tensors(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(str(file))


def losses(folder: Path) -> list[tuple[int, float]]:
    """Losses of the steps, and of the lists that are held out if there are any."""
    lines = metrics(folder, "step")
    return [(line["step"], line[name]) for line in lines for name in ("loss", "eval_loss") if name in line]


#: Changes of a recipe for full training. With a weight decay, a parameter without gradient moves if it is updated.
FULL: dict[str, Any] = {"adapter": {"name": "full"}, "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}}


def assert_close(one: Path, other: Path, *, rtol: float, atol: float) -> None:
    values, others = tensors(one), tensors(other)
    assert set(values) == set(others)
    for name, value in values.items():
        torch.testing.assert_close(others[name], value, rtol=rtol, atol=atol)
    assert [loss for _, loss in losses(other)] == pytest.approx([loss for _, loss in losses(one)], rel=1e-5)


def assert_only_the_first_has_read_the_model(held: list[dict[str, int]]) -> None:
    """Before weights are sharded, the other processes have a value or so of each."""
    first, *others = (part["read"] for part in held)
    assert all(50 * other < first for other in others)


@pytest.mark.full
@pytest.mark.parametrize("more", [{}, {**FULL, "layers": {"name": "lisa", "n": 1, "every": 1}}], ids=["lora", "lisa"])
def test_several_processes(model: Path, collection: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    """Two processes share the lists of a step, and come to what one comes to, up to the order of sums."""
    train_adapter(recipe(model, collection, **more, training={"accumulation": 2}), tmp_path / "one", device="cpu")
    run_in(2, recipe(model, collection, **more, training={"accumulation": 1}), tmp_path / "two")
    assert_close(tmp_path / "one", tmp_path / "two", rtol=1e-3, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(
    "more",
    [
        {},
        {**ATTENTION, "readout": {"layers": "0-2"}},
        {**ATTENTION, "readout": {"layers": "0-2"}, "training": {"checkpointing": True}},
        {"adapter": {"name": "dora", "r": 4}},
        {"adapter": {"name": "lora-xs", "r": 4}, "training": {"checkpointing": True}},
        {"adapter": {"name": "peft", "config": "vblora", "num_vectors": 8, "vector_length": 16, "topk": 2}},
        {"adapter": {"name": "shadow", "r": 4}},
        {"adapter": {"name": "peft", "config": "ia3"}, "training": {"dtype": "bfloat16"}},
    ],
    ids=["tokens", "attention", "attention-checkpointing", "dora", "lora-xs", "peft-shared", "shadow", "peft-bfloat16"],
)
def test_sharded_frozen_weights(model: Path, collection: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    """Each of two processes holds half of the frozen weights, and what comes out is the same to the bit."""
    asked = {**more, "validation": validation(collection, share=0.3)}
    for name, shared in (("whole", False), ("shared", True)):
        training = {**more.get("training", {}), "accumulation": 1, "fsdp": shared}
        held = run_in(2, recipe(model, collection, **{**asked, "training": training}), tmp_path / name)
    assert all(2 * part["frozen"] == part["frozen_whole"] for part in held)
    assert_only_the_first_has_read_the_model(held)
    assert same(tensors(tmp_path / "shared"), tensors(tmp_path / "whole"))
    assert losses(tmp_path / "shared") == losses(tmp_path / "whole")
    for run_file in ("untrained.trec", "trained.trec"):
        assert (tmp_path / "shared" / run_file).read_bytes() == (tmp_path / "whole" / run_file).read_bytes()


@pytest.mark.full
@pytest.mark.parametrize(
    ("changes", "tied", "processes"),
    [
        ({"training": {"checkpointing": True}}, False, 2),
        ({}, True, 3),
        ({**ATTENTION, "readout": {"layers": "0-2", "fit": 6}}, False, 2),
    ],
    ids=["checkpointing", "tied", "attention"],
)
def test_full_training_in_several_processes(
    model: Path, collection: Path, tmp_path: Path, changes: dict[str, Any], tied: bool, processes: int
) -> None:
    """A sharded model is trained as in one process, and each process holds its part of everything."""
    if tied:
        model = model_folder(tmp_path / "tied", tie_word_embeddings=True)
    asked = {**FULL, **changes, "validation": validation(collection)}
    alone = {**changes.get("training", {}), "accumulation": processes}
    train_adapter(recipe(model, collection, **{**asked, "training": alone}), tmp_path / "one", device="cpu")
    together = {**alone, "accumulation": 1, "fsdp": True}
    held = run_in(processes, recipe(model, collection, **{**asked, "training": together}), tmp_path / "several")
    assert_close(tmp_path / "one", tmp_path / "several", rtol=1e-4, atol=1e-6)
    for run_file in ("untrained.trec", "trained.trec"):
        assert (tmp_path / "one" / run_file).read_bytes() == (tmp_path / "several" / run_file).read_bytes()
    assert_only_the_first_has_read_the_model(held)
    whole = sum(part["weights"] for part in held)
    assert all(part["state"] == 2 * part["weights"] for part in held)
    assert all(part["weights"] <= 1.05 * whole / processes for part in held)


@pytest.mark.full
def test_full_training_in_bfloat16(model: Path, collection: Path, tmp_path: Path) -> None:
    """Sharding changes little of what bfloat16 changes, also in the loss on held-out lists; what is kept is float32."""
    asked = {**FULL, "validation": {"share": 0.3, "every": 2}}
    for name, dtype in (("float32", "float32"), ("whole", "bfloat16")):
        training = {"accumulation": 2, "dtype": dtype}
        train_adapter(recipe(model, collection, **asked, training=training), tmp_path / name, device="cpu")
    training = {"accumulation": 1, "dtype": "bfloat16", "fsdp": True}
    held = run_in(2, recipe(model, collection, **asked, training=training), tmp_path / "sharded")
    weights = {name: tensors(tmp_path / name) for name in ("float32", "whole", "sharded")}

    def distance(one: str, other: str) -> float:
        differences = [(weights[one][name] - value).flatten() for name, value in weights[other].items()]
        return float(torch.cat(differences).norm())

    assert 0 < distance("whole", "sharded") < distance("whole", "float32") / 5
    found, expected = losses(tmp_path / "sharded"), losses(tmp_path / "whole")
    assert [step for step, _ in found] == [step for step, _ in expected] == [1, 2, 2, 3, 4, 4]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=2e-4)
    size = sum(value.numel() for value in weights["sharded"].values())
    assert sum(part["weights"] for part in held) == sum(part["gradients"] for part in held) == 4 * size


@pytest.mark.full
def test_sharded_training_killed_and_gone_on_with(model: Path, collection: Path, tmp_path: Path) -> None:
    """After SIGKILL of all processes, --resume comes to the bits of a training in one go.

    Each process holds as many bytes of weights, gradients and optimizer state as the formula says.
    """
    training = {"steps": 10, "accumulation": 1, "fsdp": True, "neftune": 5.0}
    asked = recipe(model, collection, **FULL, training=training)
    held = run_in(2, asked, tmp_path / "whole")
    expected = estimate_training(asked, processes=2, device="cpu")
    for part in held:
        assert {name: part[name] for name in ("weights", "gradients", "state")}.items() <= expected.items()
    killed = tmp_path / "killed"
    started, deadline = start(asked, killed), time.monotonic() + 240
    while len(list_checkpoints(killed)) < 2 and started[0].is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for process in started:
        process.kill()
    finish(started)
    assert list_checkpoints(killed)
    assert not (killed / "rerank.json").exists()
    run_in(2, asked, killed, resume=True)
    assert same(tensors(killed), tensors(tmp_path / "whole"))
    assert losses(killed) == losses(tmp_path / "whole")


def test_another_number_of_processes_is_refused(model: Path, collection: Path, tmp_path: Path) -> None:
    """The lists of each step would differ from those before."""
    asked = recipe(model, collection, training={"steps": 2})
    train_adapter(asked, tmp_path, device="cpu")
    (tmp_path / "result.json").unlink()  # the training was not complete
    file = list_checkpoints(tmp_path)[-1] / WEIGHTS
    save_file(load_file(file), file, {"lists_per_step": "6"})
    write_checksums(file.parent)
    with raises(UsageError, "6 lists per step", "same number of processes"):
        train_adapter(asked, tmp_path, device="cpu", resume=True)


def test_sharded_weights_and_one_process(model: Path, collection: Path, tmp_path: Path) -> None:
    with raises(UsageError, "fsdp = true", "torchrun"):
        train_adapter(recipe(model, collection, training={"fsdp": True}), tmp_path / "out", device="cpu")
