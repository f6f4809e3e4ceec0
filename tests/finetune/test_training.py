"""Whole trainings of a tiny model: files, resuming to the bit, being killed, and everything that goes wrong."""

from __future__ import annotations

import importlib.machinery
import json
import os
import random
import resource
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("peft")
pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
huggingface_hub = pytest.importorskip("huggingface_hub")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, integrations  # noqa: E402

from rerank.errors import (  # noqa: E402
    BackendError,
    DataError,
    MissingPrerequisiteError,
    MissingResourceError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from rerank.experiment import run_experiment  # noqa: E402
from rerank.experiment.spec import Execution, RunSpec  # noqa: E402
from rerank.finetune.component_registry import ADAPTERS  # noqa: E402
from rerank.finetune.recipe import Recipe, ValidationTable  # noqa: E402
from rerank.finetune.trainer.schedule import read_lists  # noqa: E402
from rerank.finetune.trainer.training import pick_reporting_services, reporting_environment, train_adapter  # noqa: E402
from rerank.finetune.trainer.training_folder import (  # noqa: E402
    check_hub_repository,
    find_last_checkpoint,
    hub_id,
    list_checkpoints,
    push_adapter_to_hub,
)
from rerank.finetune.trainer.validation import Validation  # noqa: E402
from rerank.lm.loading import attach_adapter  # noqa: E402
from rerank.models.adapters import AdapterSettings  # noqa: E402
from rerank.reranker import Reranker  # noqa: E402
from tests.finetune.small import (  # noqa: E402
    ATTENTION,
    LIKELIHOOD,
    RecipeOf,
    collection_folder,
    killed_and_gone_on_with,
    metrics,
    recipe,
    same,
    stopped_and_gone_on_with,
    validation,
    values,
)
from tests.raising import raises  # noqa: E402


def weights(folder: Path) -> dict[str, Any]:
    return load_file(str(folder / "adapter_model.safetensors"))


def ranks_as_validated(asked: Recipe, collection: Path, folder: Path, **ranker: Any) -> dict[str, Any]:
    """Train with a validation; a run has the value of the validation. Return the specification of the run."""
    result = train_adapter(asked, folder / "out", device="cpu")
    spec = RunSpec(collection=f"jsonl:{collection}", depth=6, max_queries=4, **ranker)
    summary = run_experiment(spec, Execution(out=folder / "run", device="cpu"))
    assert summary["scores"]["nDCG@10"] == pytest.approx(result.validation["nDCG@10"], abs=1e-9)
    kept: dict[str, Any] = json.loads((folder / "run" / "spec.json").read_text())["spec"]
    return kept


def test_a_training_from_recipe_to_run(recipe_of: RecipeOf, model: Path, collection: Path, tmp_path: Path) -> None:
    asked = recipe_of(**ATTENTION, validation=validation(collection))
    result = train_adapter(asked, tmp_path / "out", device="cpu")
    assert result.steps == 4
    # 2 of 3 layers are left: q, k, v, o, gate, up, down of each with r = 4; 4 heads of layer 1, the power of lengths
    linear = (64 + 64) * 2 + (64 + 32) * 2 + (64 + 128) * 3
    assert result.trainable == 4 * linear * 2 + 4 + 1
    assert set(result.validation) == {"nDCG@10"}
    assert result.tokens > 0
    moved = 4 * (linear + (64 + 64) + (64 + 32)) + 5  # behind the attention of the last layer nothing is looked at
    assert result.state_mb == pytest.approx(2 * 4 * moved / 2**20, abs=0.006)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "heads.json", "prompt.yaml", "rerank.json"} <= files
    assert not {"heads.now.json", ".unfinished"} & files
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trained against first stage" in card
    assert "p = " in card

    spec = RunSpec(collection=f"jsonl:{collection}", depth=6, max_queries=4, adapter=str(tmp_path / "out"))
    summary = run_experiment(spec, Execution(out=tmp_path / "run", device="cpu"))
    assert summary["scores"]["nDCG@10"] == pytest.approx(result.validation["nDCG@10"], abs=1e-9)
    kept = json.loads((tmp_path / "run" / "spec.json").read_text())["spec"]
    assert kept["model"] == str(model)
    assert kept["method"].startswith("full:attention,calibrate=false,heads=")

    reranker = Reranker.from_pretrained(str(model), adapter=str(tmp_path / "out"), device="cpu")
    hits = reranker.rank("wing lift heat", ["jet tail", "wing lift heat"])
    assert sorted(hit.corpus_id for hit in hits) == [0, 1]


@pytest.mark.parametrize(
    ("adapter", "dtype", "stored"),
    [
        ("lora", "bfloat16", torch.bfloat16),
        ("rslora", "bfloat16", torch.bfloat16),
        ("lora", "float32", torch.float32),
        ("dora", "bfloat16", torch.float32),
        ("pissa", "bfloat16", torch.float32),
        ("lora-sb", "bfloat16", torch.float32),
    ],
)
def test_a_plain_lora_is_saved_in_the_data_type_of_the_model(
    recipe_of: RecipeOf, tmp_path: Path, adapter: str, dtype: str, stored: Any
) -> None:
    asked = recipe_of(adapter={"name": adapter, "r": 4}, training={"dtype": dtype})
    train_adapter(asked, tmp_path / "out", device="cpu")
    assert {value.dtype for value in weights(tmp_path / "out").values()} == {stored}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # of peft, on loading
def test_a_model_in_bfloat16_ranks_by_rounded_factors_as_by_the_trained_ones(
    recipe_of: RecipeOf, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe_of(training={"dtype": "bfloat16"})
    train_adapter(asked, tmp_path / "rounded", device="cpu")
    monkeypatch.setattr("rerank.finetune.trainer.training_folder._round_plain_lora", lambda *_: None)
    train_adapter(asked, tmp_path / "trained", device="cpu")
    ids = torch.arange(20)[None]
    logits = []
    for name, stored in (("rounded", torch.bfloat16), ("trained", torch.float32)):
        assert {value.dtype for value in weights(tmp_path / name).values()} == {stored}
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        logits.append(attach_adapter(base, tmp_path / name, cast=True)(ids).logits)
    assert torch.equal(*logits)
    assert not torch.equal(logits[0], AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)(ids).logits)


def test_query_likelihood_ranks_as_it_was_trained_to(recipe_of: RecipeOf, collection: Path, tmp_path: Path) -> None:
    asked = recipe_of(**LIKELIHOOD, validation=validation(collection))
    kept = ranks_as_validated(asked, collection, tmp_path, adapter=str(tmp_path / "out"), dtype="float32")
    assert all({"loss_distill", "loss_lm"} <= set(line) for line in metrics(tmp_path / "out", "loss"))
    assert kept["method"] == "qlm"


def test_a_whole_model_ranks_as_it_was_trained_to(recipe_of: RecipeOf, collection: Path, tmp_path: Path) -> None:
    changes = {**ATTENTION, "adapter": {"name": "full"}, "optimizer": {"lr": 1e-4}}
    asked = recipe_of(**changes, validation=validation(collection))
    ranks_as_validated(asked, collection, tmp_path, model=str(tmp_path / "out"))


def test_heads_are_bound_to_their_adapter(recipe_of: RecipeOf, model: Path, collection: Path, tmp_path: Path) -> None:
    train_adapter(recipe_of(**ATTENTION), tmp_path / "out", device="cpu")
    spec = RunSpec(
        collection=f"jsonl:{collection}",
        depth=4,
        max_queries=1,
        model=str(model),
        method=f"full:attention,calibrate=false,heads={tmp_path / 'out' / 'heads.json'}",
    )
    with raises(UsageError, "heads.json", "adapter"):
        run_experiment(spec, Execution(out=tmp_path / "run", device="cpu"))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training": {"batch_size": 2, "accumulation": 1, "neftune": 5.0}, "adapter": {"name": "lora", "dropout": 0.1}},
        {**ATTENTION, "data": {"shuffle": True}},
        LIKELIHOOD,
        {"adapter": {"name": "full"}, "optimizer": {"name": "galore", "rank": 4, "lr": 1e-3}},
        {"adapter": {"name": "full"}, "layers": {"name": "lisa", "n": 1, "every": 3}},
    ],
    ids=["lora", "packed-noise", "attention", "likelihood", "full-galore", "lisa"],
)
def test_stopped_and_gone_on_with_comes_to_the_same_bits(
    recipe_of: RecipeOf, tmp_path: Path, changes: dict[str, Any]
) -> None:
    stopped_and_gone_on_with(recipe_of(**changes), tmp_path)


#: The default suite resumes the one adapter that keeps more than weights between steps; the full suite resumes all.
ADAPTERS_HERE = [
    pytest.param(name, marks=[] if name == "adalora" else [pytest.mark.full])
    for name in ADAPTERS.names()
    if name != "peft" and not ADAPTERS.get(name).needs
]
#: The default suite resumes one configuration of peft, the full suite a sample of them.
CONFIGURATIONS = [
    {"config": "boft", "boft_block_size": 8},
    pytest.param({"config": "fourierft", "n_frequency": 200}, marks=pytest.mark.full),
    pytest.param({"config": "hra"}, marks=pytest.mark.full),
    pytest.param({"config": "ia3"}, marks=pytest.mark.full),
    pytest.param({"config": "lily", "r": 4}, marks=pytest.mark.full),  # layers share tensors
    pytest.param({"config": "lora", "init_lora_weights": "pissa"}, marks=pytest.mark.full),
    pytest.param({"config": "miss", "r": 8}, marks=pytest.mark.full),
    pytest.param({"config": "psoft", "r": 8}, marks=pytest.mark.full),
    pytest.param({"config": "shira", "r": 8}, marks=pytest.mark.full),
    pytest.param({"config": "vera", "r": 8}, marks=pytest.mark.full),  # with its random matrices in the checkpoint
]


@pytest.mark.parametrize("name", ADAPTERS_HERE)
def test_every_adapter_is_gone_on_with_to_the_same_bits(recipe_of: RecipeOf, tmp_path: Path, name: str) -> None:
    small: dict[str, Any] = {key: {"r": 8} for key in ("loldu", "lift", "lora_sb", "lora_xs", "salt")}
    options = {**small, "adalora": {"r": 2, "init_r": 4, "delta_t": 1, "tfinal": 0.25}}.get(name, {})
    changes = {"adapter": {"name": name, **options}, "training": {"steps": 8, "save_every": 3}}
    stopped_and_gone_on_with(recipe_of(**changes), tmp_path, after=5)


@pytest.mark.filterwarnings("ignore:(Failed to load the CUDA extension|Setting boft_n):UserWarning")  # peft's BOFT
@pytest.mark.parametrize("options", CONFIGURATIONS, ids=lambda options: options["config"])
def test_configurations_of_peft_are_gone_on_with_to_the_same_bits(
    recipe_of: RecipeOf, tmp_path: Path, options: dict[str, Any]
) -> None:
    changes = {"adapter": {"name": "peft", **options}, "training": {"steps": 8, "save_every": 3}}
    stopped_and_gone_on_with(recipe_of(**changes), tmp_path, after=5)


def test_an_adapter_with_a_network_of_its_own_is_not_watched(recipe_of: RecipeOf, tmp_path: Path) -> None:
    with raises(UsageError, "batch_size = 1", "another adapter"):
        train_adapter(recipe_of(**{**ATTENTION, "adapter": {"name": "shadow"}}), tmp_path, device="cpu")


@pytest.mark.parametrize(
    "adapter",
    [{"name": "lora"}, {"name": "adalora"}, {"name": "full"}, {"name": "peft", "config": "hra"}],
    ids=lambda table: table["name"],
)
def test_adapters_where_the_last_layer_is_only_looked_at(
    recipe_of: RecipeOf, tmp_path: Path, adapter: dict[str, Any]
) -> None:
    asked = recipe_of(**{**ATTENTION, "adapter": adapter, "training": {"steps": 8}})
    stopped_and_gone_on_with(asked, tmp_path, after=7)


def test_the_penalty_of_an_adapter_is_part_of_the_loss_and_trains(recipe_of: RecipeOf, tmp_path: Path) -> None:
    """It is added once per step, whatever the accumulation."""
    table = {"name": "adalora", "r": 4, "tinit": 0.9, "tfinal": 0.05}
    found = {}
    for weight in (0.0, 2.0):
        asked = recipe_of(
            adapter=table | {"orthogonality": weight},
            optimizer={"name": "adamw", "lr": 1e-2},
            training={"steps": 6, "accumulation": 2, "log_every": 1, "max_grad_norm": 1e9},
        )
        train_adapter(asked, tmp_path / str(weight), device="cpu")
        found[weight] = metrics(tmp_path / str(weight), "loss")
    first = found[2.0][0]
    assert first["loss"] - found[0.0][0]["loss"] == pytest.approx(first["loss_penalty"], abs=1e-3)
    assert first["loss_penalty"] == pytest.approx(2.0 * 6**0.5, rel=0.05)
    assert found[2.0][-1]["loss_penalty"] < 0.9 * first["loss_penalty"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": {"method": "full:pick"}}, "'pick'"),
        ({"method": {"method": "pointwise"}, "losses": [{"name": "lm"}]}, "'score'"),
        ({"method": {"method": "nothing"}}, "nothing"),
        ({"data": {"lists": []}}, "data.lists"),
        ({"method": {"method": "fullrank", "prompt": "nothing"}}, "nothing"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused_before_its_model_is_loaded(
    recipe_of: RecipeOf,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    named: str,
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("rerank.finetune.trainer.base_model.load_base_model", load)
    with raises((UsageError, UnknownNameError), named):
        train_adapter(recipe_of(**changes), tmp_path / "out", device="cpu")


def test_epochs_in_the_metrics_are_passes_over_the_lists(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of(training={"steps": 3, "accumulation": 1, "log_every": 1})
    train_adapter(asked, tmp_path, device="cpu")
    lists = len(read_lists(asked)[0])
    assert [line["epoch"] for line in metrics(tmp_path, "loss")] == pytest.approx([n / lists for n in (1, 2, 3)])


def test_killed_and_gone_on_with(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of(training={"steps": 16})
    killed_and_gone_on_with(asked, tmp_path, "adapter_model.safetensors")


def test_a_damaged_last_checkpoint(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked, out = recipe_of(training={"steps": 4}), tmp_path / "out"
    train_adapter(asked, out, device="cpu")
    whole = weights(out)
    for name in ("result.json", "rerank.json", "checksums.json"):
        (out / name).unlink()
    first, last = list_checkpoints(out)
    files = [path for path in sorted(last.iterdir()) if path.is_file()]
    for number in range(25):
        rng = random.Random(number)
        path = rng.choice(files)
        content = path.read_bytes()
        start = rng.randrange(len(content))
        changed = bytes([content[start] ^ 1 << rng.randrange(8)]) if number % 2 else b""  # else it is cut off
        path.write_bytes(content[:start] + changed + content[start + 1 :] * (number % 2))
        with pytest.warns(UserWarning, match="is damaged: .*; the earlier checkpoint-2 is used"):
            assert find_last_checkpoint(out) == first, (number, path.name)
        path.write_bytes(content)
    assert find_last_checkpoint(out) == last
    (last / "optimizer.pt").unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        train_adapter(asked, out, device="cpu", resume=True)
    assert same(weights(out), whole)
    (out / "metrics.jsonl").write_text("")
    with raises(DataError, "metrics.jsonl was changed", "--resume"):
        train_adapter(asked, out, device="cpu", resume=True)
    for path in [out / "result.json", *(path / "optimizer.pt" for path in list_checkpoints(out))]:
        path.unlink()
    with raises(DataError, "No checkpoint", "intact"):
        train_adapter(asked, out, device="cpu", resume=True)


def test_a_folder_with_other_files_is_not_trained_in(recipe_of: RecipeOf, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with raises(UsageError, "not the folder of a training"):
        train_adapter(recipe_of(), tmp_path, device="cpu")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_finished_training_is_answered_from_its_folder(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of()
    first = train_adapter(asked, tmp_path, device="cpu")
    again = train_adapter(asked, tmp_path, device="cpu", resume=True)
    assert (again.steps, again.loss, again.trainable) == (first.steps, first.loss, first.trainable)
    with raises(UsageError, "--resume"):
        train_adapter(asked, tmp_path, device="cpu")
    with raises(UsageError, "--out"):
        train_adapter(recipe_of(seed=4), tmp_path, device="cpu", resume=True)


def test_gradients_that_are_no_numbers(recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.finetune.losses import Importance

    def weights_of(self: Any, ranks: Any) -> Any:
        return ranks.new_full(ranks.shape, float("inf"))

    monkeypatch.setattr(Importance, "weights", weights_of)
    with pytest.raises(BackendError, match=r"The loss is inf on the lists of queries q\d"):
        train_adapter(recipe_of(), tmp_path, device="cpu")


def test_a_gradient_that_is_no_number_leaves_the_weights(
    recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    monkeypatch.setattr(Trainer, "_get_grad_norm", lambda *_, **__: torch.tensor(float("nan")))
    with raises(BackendError, "nan at step 1"):
        train_adapter(recipe_of(), tmp_path, device="cpu")


def test_a_full_disk(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of(adapter={"name": "lora", "r": 64}, training={"steps": 4})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with raises(StorageError, "--resume"):
            train_adapter(asked, tmp_path / "out", device="cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list_checkpoints(tmp_path / "out") == []
    assert not (tmp_path / "out" / "rerank.json").exists()
    assert train_adapter(asked, tmp_path / "out", device="cpu", resume=True).steps == 4


def rewritten(collection: Path, folder: Path, **changes: Any) -> Path:
    """The collection with its first label changed."""
    folder.mkdir()
    for path in collection.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    rows[0] |= changes
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"final_list": ["q1d0", "elsewhere"]}, "'q1d0'"),
        ({"initial_list": [], "final_list": [], "scores": []}, "initial_list"),
        ({"scores": [1.0]}, "scores"),
    ],
)
def test_labels_that_are_wrong(
    model: Path, collection: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with raises(DataError, message):
        train_adapter(recipe(model, rewritten(collection, tmp_path / "c", **changes)), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_list_longer_than_the_context(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of(method={"context_size": 200})
    with raises(DataError, "min_passage_tokens", "200"):
        train_adapter(asked, tmp_path / "out", device="cpu")


def looks(folder: Path) -> list[int]:
    return [line["step"] for line in metrics(folder, "eval_nDCG@10")]


def test_the_last_step_is_looked_at(recipe_of: RecipeOf, collection: Path, tmp_path: Path) -> None:
    train_adapter(recipe_of(training={"steps": 5}, validation=validation(collection)), tmp_path, device="cpu")
    assert looks(tmp_path) == [2, 4, 5]


def test_patience_that_had_ended_stays_at_its_end(recipe_of: RecipeOf, collection: Path, tmp_path: Path) -> None:
    asked = recipe_of(
        optimizer={"lr": 1e-9},
        training={"steps": 20, "save_every": 1},
        validation=validation(collection, every=1, patience=2),
    )
    first = train_adapter(asked, tmp_path, device="cpu")
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    (tmp_path / "result.json").unlink()
    again = train_adapter(asked, tmp_path, device="cpu", resume=True)
    assert (first.steps, first.validation) == (again.steps, again.validation) == (3, first.validation)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before
    assert looks(tmp_path) == [1, 2, 3]


def test_the_loss_is_told_after_a_resume_too(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of()
    first = train_adapter(asked, tmp_path, device="cpu")
    (tmp_path / "result.json").unlink()
    again = train_adapter(asked, tmp_path, device="cpu", resume=True)
    assert first.loss == again.loss > 0


def test_a_line_that_was_cut_off_is_written_again(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of()
    train_adapter(asked, tmp_path, device="cpu")
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "result.json").unlink()
    *_, last = list_checkpoints(tmp_path)
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    (tmp_path / "metrics.jsonl").write_text(whole[: whole.rindex("{") + 9])
    train_adapter(asked, tmp_path, device="cpu", resume=True)
    assert [line["step"] for line in metrics(tmp_path, "step") if line["step"] <= 4][:4] == [1, 2, 3, 4]


def test_what_a_killed_process_left_is_removed(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of()
    train_adapter(asked, tmp_path, device="cpu")
    checkpoints = list_checkpoints(tmp_path)
    shutil.copytree(checkpoints[0], checkpoints[0].with_name("checkpoint-1"))  # killed before it was removed
    (tmp_path / "result.json").unlink()
    train_adapter(asked, tmp_path, device="cpu", resume=True)
    assert list_checkpoints(tmp_path) == checkpoints
    assert (tmp_path / "metrics.jsonl").read_text().count("train_runtime") == 1


def test_another_number_of_processes_is_refused(
    recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainingArguments

    asked = recipe_of()
    train_adapter(asked, tmp_path, device="cpu")
    (tmp_path / "result.json").unlink()
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with raises(UsageError, "2 lists", "4", "torchrun"):
        train_adapter(asked, tmp_path, device="cpu", resume=True)


def test_a_joint_loss_keeps_the_whole_model_and_its_method(
    recipe_of: RecipeOf, collection: Path, tmp_path: Path
) -> None:
    asked = recipe_of(
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
        assert any(".layers.2." in name for name in file.keys())  # noqa: SIM118 (the file is no dictionary)
    spec = RunSpec(collection=f"jsonl:{collection}", depth=4, max_queries=1, adapter=str(tmp_path / "out"))
    assert run_experiment(spec, Execution(out=tmp_path / "run", device="cpu"))["queries"] == 1


def test_a_method_that_calibrates_is_not_trained_for(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of(**{**ATTENTION, "method": {"method": "icr"}})
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


def test_a_disk_that_is_full_at_the_end(recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.finetune.trainer import training_run as run

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_adapter", full)
    with raises(StorageError, "No space"):
        train_adapter(recipe_of(), tmp_path, device="cpu")
    monkeypatch.undo()
    assert train_adapter(recipe_of(), tmp_path, device="cpu", resume=True).steps == 4


def test_one_gpu_of_several_is_not_named(recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.finetune.trainer import processes, training_run

    monkeypatch.setattr(processes, "pick_device", lambda device: device)
    monkeypatch.setattr(training_run, "pick_dtype", lambda dtype, device, **_: dtype)
    with raises(UsageError, "CUDA_VISIBLE_DEVICES=1"):
        train_adapter(recipe_of(), tmp_path, device="cuda:1")


def test_a_recipe_that_does_not_fit_the_model_leaves_the_folder_free(recipe_of: RecipeOf, tmp_path: Path) -> None:
    with raises(UsageError, "atention"):
        train_adapter(recipe_of(adapter={"name": "lora", "targets": "atention"}), tmp_path, device="cpu")
    assert train_adapter(recipe_of(), tmp_path, device="cpu").steps == 4


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5])
def test_a_share_is_taken_out_by_query(recipe_of: RecipeOf, share: float) -> None:
    def held_out_queries(seed: int) -> set[str]:
        asked = recipe_of(seed=seed, validation={"share": share})
        train, held = ({entry.query.text for entry in part} for part in read_lists(asked))
        assert train
        assert not train & held
        assert len(held) == max(1, round(share * len(train | held)))
        return held

    assert held_out_queries(3) == held_out_queries(3)
    assert len({frozenset(held_out_queries(seed)) for seed in range(5)}) > 1


def test_its_loss_selects_the_weights_and_is_the_same_after_a_resume(recipe_of: RecipeOf, tmp_path: Path) -> None:
    asked = recipe_of(validation={"share": 0.3, "every": 1}, optimizer={"name": "sgd", "lr": 30.0})
    result = train_adapter(asked, tmp_path / "whole", device="cpu")
    losses = values(tmp_path / "whole", "eval_loss")
    assert losses == values(tmp_path / "whole", "eval_loss_importance")
    assert result.validation == {"held-out loss": pytest.approx(min(losses), abs=1e-6)}
    assert result.first_stage == {}
    assert f"held-out lists: {min(losses):.4f}" in (tmp_path / "whole" / "README.md").read_text()
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (tmp_path / "parts" / "result.json").unlink()
    shutil.rmtree(list_checkpoints(tmp_path / "parts")[-1])
    again = train_adapter(asked, tmp_path / "parts", device="cpu", resume=True)
    assert (again.validation, values(tmp_path / "parts", "eval_loss")) == (result.validation, losses)
    adapters = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert adapters[0] == adapters[1]


def test_the_loss_ends_a_training_that_gets_worse(recipe_of: RecipeOf, tmp_path: Path) -> None:
    table = {"share": 0.3, "every": 1, "patience": 1}
    asked = recipe_of(validation=table, optimizer={"name": "sgd", "lr": 1000.0}, training={"steps": 12})
    result = train_adapter(asked, tmp_path, device="cpu")
    losses = values(tmp_path, "eval_loss")
    assert result.steps == len(losses) < 12
    assert losses[-1] >= min(losses[:-1])


@pytest.mark.parametrize("measure", ["nDCG@10", "loss"])
def test_lists_and_a_collection(recipe_of: RecipeOf, collection: Path, tmp_path: Path, measure: str) -> None:
    other = collection_folder(tmp_path / "other", seed=5)
    lists = {"lists": [str(other / "labels.jsonl")], "documents_in": f"jsonl:{other}", "measure": measure}
    asked = recipe_of(validation=validation(collection, **lists))
    result = train_adapter(asked, tmp_path / "out", device="cpu")
    assert len(values(tmp_path / "out", "eval_loss")) == len(values(tmp_path / "out", "eval_nDCG@10")) == 2
    assert set(result.validation) == {"nDCG@10", "held-out loss"}
    state = json.loads((list_checkpoints(tmp_path / "out")[-1] / "trainer_state.json").read_text())
    best = {"nDCG@10": max, "loss": min}[measure](values(tmp_path / "out", f"eval_{measure}"))
    assert state["best_metric"] == best


def test_a_measure_that_does_not_exist_is_refused_before_the_training(collection: Path) -> None:
    with raises(UnknownNameError, "ndgc"):
        Validation.of(ValidationTable(**validation(collection, measure="ndgc@10")))


def test_a_held_out_query_that_is_trained_on_is_refused(recipe_of: RecipeOf, collection: Path, tmp_path: Path) -> None:
    asked = recipe_of(validation={"lists": [str(collection / "labels.jsonl")]})
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
    recipe_of: RecipeOf, tmp_path: Path, wandb: FakeWandb
) -> None:
    folder = tmp_path / "out"
    train_adapter(recipe_of(), folder, device="cpu", report_to=["wandb"])
    (started,) = wandb.started
    assert (started["MODE"], started["DIR"], started["project"]) == ("offline", str(folder), "rerank")
    assert [line["train/loss"] for line in wandb.logged if "train/loss" in line]
    assert wandb.run is None
    assert "WANDB_MODE" not in os.environ
    assert KEY not in repr((wandb.started, wandb.logged))
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert not (folder / "tensorboard").exists()


def test_a_service_that_fails_is_named(
    recipe_of: RecipeOf, tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise type("CommError", (Exception,), {"__module__": "wandb.errors"})("no key")

    monkeypatch.setattr(wandb, "init", refuse)
    with raises(BackendError, "no key", "--report-to none"):
        train_adapter(recipe_of(), tmp_path, device="cpu", report_to=["wandb"])


def test_another_service_does_not_prevent_resuming(recipe_of: RecipeOf, tmp_path: Path, wandb: FakeWandb) -> None:
    asked = recipe_of()
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


def test_tensorboard_s_files_are_written_where_it_is_installed(recipe_of: RecipeOf, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train_adapter(recipe_of(), tmp_path / "out", device="cpu")
    assert list((tmp_path / "out" / "tensorboard").glob("events.*"))


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


@pytest.mark.parametrize("name", ["me/mine/more", "me/mine ", "me/.mine", "Zürich"])
def test_a_name_that_the_hub_does_not_allow_ends_the_training_before_it_starts(name: str) -> None:
    with raises(UsageError, "no name of a repository", "OWNER/NAME"):
        check_hub_repository(name)


def test_an_upload_needs_a_token_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    check_hub_repository("me/mine")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with raises(UsageError, "'me/mine'", "HF_TOKEN"):
        check_hub_repository("me/mine")


def test_models_are_called_what_others_call_them() -> None:
    assert hub_id("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert hub_id("owner/name") == "owner/name"
