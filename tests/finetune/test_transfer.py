"""An adapter of one tiny model teaches another: labels, agreement, going on, and what is refused."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rerank.cli.app import app  # noqa: E402
from rerank.errors import DataError, UsageError  # noqa: E402
from rerank.experiment import run_experiment  # noqa: E402
from rerank.experiment.robustness import kendall_tau  # noqa: E402
from rerank.experiment.spec import Execution, RunSpec  # noqa: E402
from rerank.finetune.extra.transfer import TransferSpec, mean_tau_of_labels, trained_adapter_usage, transfer_adapter  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from rerank.models.adapters import read_settings  # noqa: E402
from tests.finetune.small import collection_folder, model_folder, recipe  # noqa: E402
from tests.raising import raises  # noqa: E402

ATTENTION: dict[str, Any] = {
    "method": {"method": "full:attention,calibrate=false", "prompt": "icr_ie"},
    "losses": [{"name": "ranknet", "on": "log-attention"}],
    "readout": {"layers": "1-1"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``collection``, the base models ``a`` and ``b``, and ``teacher``, an adapter of ``a``."""
    folder = tmp_path_factory.mktemp("transfer")
    collection_folder(folder / "collection")
    model_folder(folder / "a", layers=3)
    model_folder(folder / "b", layers=2)
    train_adapter(recipe(folder / "a", folder / "collection", **ATTENTION), folder / "teacher", device="cpu")
    return folder


def asked(folder: Path, out: Path, *, held_out: float = 0.2, **changes: Any) -> TransferSpec:
    values = {**ATTENTION, "training": {"steps": 4, "accumulation": 2}, **changes}
    return TransferSpec(
        adapter=str(folder / "teacher"),
        model=str(folder / "b"),
        spec=RunSpec(collection=f"jsonl:{folder / 'collection'}", depth=5),
        recipe=recipe(Path("elsewhere"), Path("elsewhere"), **values),
        folder=out,
        held_out=held_out,
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_student_comes_nearer_to_its_teacher(folder: Path, tmp_path: Path) -> None:
    given = asked(
        folder,
        tmp_path / "out",
        training={"steps": 40, "accumulation": 4, "save_every": 100},
        optimizer={"lr": 3e-3},
        adapter={"name": "lora", "r": 16},
    )
    report = transfer_adapter(given, device="cpu")
    assert json.loads((tmp_path / "out" / "transfer.json").read_text()) == report
    assert (report["lists"], report["held_out"], report["left_out"]) == (5, 1, {})
    taus = report["agreement"]["train"]
    assert taus["after"] > taus["before"]
    assert -1 <= report["agreement"]["held_out"]["after"] <= 1
    assert report["training"]["steps"] == 40
    trained = read_settings(tmp_path / "out" / "student")
    assert trained is not None
    assert trained.model == str(folder / "b")
    kept = json.loads((tmp_path / "out" / "student" / "recipe.json").read_text())
    assert kept["data"]["lists"] == [str(tmp_path / "out" / "labels.jsonl")]
    assert kept["data"]["collection"] == given.spec.collection
    lists, apart = rows(tmp_path / "out" / "labels.jsonl"), rows(tmp_path / "out" / "held_out.jsonl")
    assert {row["qid"] for row in lists}.isdisjoint(row["qid"] for row in apart)
    # The labels are what the adapter's own run says, and the agreement is that of the runs.
    spec = RunSpec(collection=given.spec.collection, depth=5, adapter=given.adapter)
    own = run_experiment(spec, Execution(out=tmp_path / "own", device="cpu"))
    orders = orders_of(Path(own["folder"]))
    assert all(row["final_list"] == orders[row["qid"]] for row in [*lists, *apart])
    for when in ("before", "after"):
        found = orders_of(tmp_path / "out" / when)
        mean = sum(kendall_tau(row["final_list"], found[row["qid"]]) for row in lists) / len(lists)
        assert report["agreement"]["train"][when] == pytest.approx(mean)


def orders_of(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (folder / "run.trec").read_text().splitlines():
        query, _, name, *_ = line.split()
        found.setdefault(query, []).append(name)
    return found


def test_judgments_are_not_needed(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "collection", tmp_path / "collection")
    path = tmp_path / "collection" / "qrels.txt"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("q0 ")))
    given = asked(folder, tmp_path / "out", held_out=0)
    spec = given.spec.model_copy(update={"collection": f"jsonl:{tmp_path / 'collection'}"})
    report = transfer_adapter(
        TransferSpec(**{**{name: getattr(given, name) for name in given.__slots__}, "spec": spec}), device="cpu"
    )
    assert (report["lists"], report["held_out"]) == (6, 0)
    assert report["agreement"]["held_out"] == {"before": None, "after": None}
    assert not (tmp_path / "out" / "held_out.jsonl").exists()


def test_whole_models_teach_and_learn(folder: Path, tmp_path: Path) -> None:
    given = asked(folder, tmp_path / "out", adapter={"name": "full"}, losses=[{"name": "listmle", "on": "attention"}])
    report = transfer_adapter(given, device="cpu")
    whole = trained_adapter_usage(report["folder"])
    assert whole["model"] == report["folder"]
    assert "adapter" not in whole
    back = TransferSpec(
        adapter=report["folder"],
        model=str(folder / "a"),
        spec=given.spec,
        recipe=given.recipe,
        folder=tmp_path / "back",
    )
    assert transfer_adapter(back, device="cpu")["lists"] == 5


def test_stopped_and_gone_on_with(folder: Path, tmp_path: Path) -> None:
    given = asked(folder, tmp_path / "out", training={"steps": 4, "accumulation": 2, "save_every": 1})

    class Stopped(Exception):
        """The process ends here."""

    steps: list[int] = []

    def end(more: int) -> None:
        steps.append(more)
        if len(steps) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        transfer_adapter(given, device="cpu", progress=lambda *_: nullcontext(end))
    with raises(UsageError, "--resume", "--out"):
        transfer_adapter(given, device="cpu")
    asked_again: list[str] = []

    def watched(prepared: Any, execution: Any) -> dict[str, Any]:
        from rerank.experiment import execute_run

        summary = execute_run(prepared, execution)
        if summary["reused_calls"] < summary["calls"]:
            asked_again.append(Path(summary["folder"]).name)
        return summary

    report = transfer_adapter(given, device="cpu", resume=True, run=watched)
    assert asked_again == ["after"]
    whole = asked(folder, tmp_path / "whole", training={"steps": 4, "accumulation": 2, "save_every": 1})
    assert report["agreement"] == transfer_adapter(whole, device="cpu")["agreement"]
    weights = [tmp_path / name / "student" / "adapter_model.safetensors" for name in ("out", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    with raises(UsageError, ".jsonl"):
        transfer_adapter(asked(folder, tmp_path / "out", held_out=0.5), device="cpu", resume=True)


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with raises(UsageError, "--held-out is 1.0"):
        asked(folder, tmp_path, held_out=1.0)
    (tmp_path / "foreign").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / "teacher" / name, tmp_path / "foreign")
    with raises(UsageError, "rerank.json"):
        trained_adapter_usage(str(tmp_path / "foreign"))
    with raises(UsageError, "ranks"):
        transfer_adapter(
            asked(folder, tmp_path / "out", ranks={"name": "welore"}, adapter={"name": "full"}), device="cpu"
        )
    assert not (tmp_path / "out").exists()


def test_a_collection_that_changed(folder: Path, tmp_path: Path) -> None:
    from rerank.finetune.labels.lists import LabelList

    summary = run_experiment(
        RunSpec(collection=f"jsonl:{folder / 'collection'}", depth=3, max_queries=1, model=str(folder / "b")),
        Execution(out=tmp_path / "run", device="cpu"),
    )
    label = LabelList(qid="q0", initial=("x", "y", "z"), final=("y", "x", "z"))
    with raises(DataError, "query 'q0'"):
        mean_tau_of_labels([label], Path(summary["folder"]))
    assert mean_tau_of_labels([], Path(summary["folder"])) is None


def test_the_command(folder: Path, tmp_path: Path) -> None:
    toml = (
        'data.lists = []\nmethod = {method = "full:attention,calibrate=false", prompt = "icr_ie"}\n'
        'losses = [{name = "ranknet", on = "log-attention"}]\nreadout.layers = "1-1"\n'
        "training = {steps = 2, accumulation = 1}\n"
    )
    (tmp_path / "recipe.toml").write_text(toml)
    flags = ["--to", folder / "b", "--collection", f"jsonl:{folder / 'collection'}", "--max-queries", "4"]
    files = ["--recipe", tmp_path / "recipe.toml", "--out", tmp_path / "out", "--device", "cpu"]
    line = list(map(str, ["transfer", folder / "teacher", *flags, *files]))
    done = CliRunner().invoke(app, [*line, "--format", "json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["lists"], report["held_out"]) == (3, 1)
    assert f"rerank run --collection COLLECTION --adapter {tmp_path / 'out' / 'student'}" in done.stderr
    again = CliRunner().invoke(app, [*line, "--resume"])
    assert again.exit_code == 0, again.output
    assert again.stdout.splitlines()[0] == "lists\tnumber\ttau before\ttau after"
    assert again.stdout.splitlines()[1].startswith("train\t3\t")


def test_a_student_whose_weights_all_train_is_named_as_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(asked: TransferSpec, **_: Any) -> dict[str, Any]:
        return {"folder": str(asked.folder), "lists": 1, "held_out": 0, "left_out": {}, "agreement": {}}

    monkeypatch.setattr("rerank.finetune.extra.transfer.transfer_adapter", made)
    (tmp_path / "recipe.toml").write_text("data.lists = []\nadapter = {name = 'full'}\n")
    flags = ["--to", "b", "--collection", "pydoc", "--recipe", tmp_path / "recipe.toml", "--out", tmp_path]
    line = list(map(str, ["transfer", "teacher", *flags]))
    assert f"--collection COLLECTION --model {tmp_path}" in CliRunner().invoke(app, line).stderr
    (tmp_path / "adapter_config.json").write_text("{}")
    assert f"--collection COLLECTION --adapter {tmp_path}" in CliRunner().invoke(app, line).stderr
