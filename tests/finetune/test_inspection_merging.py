"""Adapters made into models, intruders made smaller, and several adapters into one."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError  # noqa: E402
from rerank.experiment import run_experiment  # noqa: E402
from rerank.experiment.spec import Execution, RunSpec  # noqa: E402
from rerank.finetune.inspection import merging  # noqa: E402
from rerank.finetune.inspection.checkpoints import (  # noqa: E402
    CheckpointReader,
    InspectedModel,
    iterate_weight_changes,
    open_inspected_model,
)
from rerank.finetune.inspection.merging import (  # noqa: E402
    MARKER,
    MergeOptions,
    average_adapter_cores,
    concatenate_adapter_factors,
    merge_adapter,
)
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from rerank.io.model_base import hash_file_contents_of_model  # noqa: E402
from rerank.io.run_files import read_run  # noqa: E402
from rerank.lm.loading import load_language_model, quiet_transformers  # noqa: E402
from rerank.models import resolve_model_name  # noqa: E402
from rerank.tasks import BackendOptions  # noqa: E402
from tests.finetune.inspected import answers, load_base, lora, noisy, write_adapter, write_base  # noqa: E402
from tests.finetune.small import ATTENTION, collection_folder, model_folder, recipe  # noqa: E402
from tests.raising import raises  # noqa: E402

pytestmark = [  # what PEFT says when these adapters are made and saved
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
]

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("models") / "base")


def opened(folder: Path) -> InspectedModel:
    return open_inspected_model(str(folder))


def model_of(folder: Path) -> Any:
    """Loaded as ``--model FOLDER`` is."""
    return load_language_model(resolve_model_name(str(folder)), BackendOptions(device="cpu", dtype="float32")).model


def deltas(folder: Path) -> dict[str, Any]:
    subject = opened(folder)
    return {change.name: change.delta for change in iterate_weight_changes(subject, CheckpointReader(subject.base))}


CONFIGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "rank_pattern": {"v_proj": 2}},
    "pissa": {"init_lora_weights": "pissa"},
    "dora": {"use_dora": True},
    "head": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_merged_folder_answers_as_the_adapter_does(base: Path, tmp_path: Path, name: str) -> None:
    wanted = write_adapter(tmp_path / "a", base, lora(**CONFIGS[name]))
    made = merge_adapter(opened(tmp_path / "a"), tmp_path / "out")
    assert torch.allclose(answers(model_of(tmp_path / "out")), wanted, atol=1e-5)
    assert (made.dtype, made.changed, made.reduced) == ("float32", 7 if name == "head" else 6, ())
    assert made.rounded == 0.0
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    said = json.loads((tmp_path / "out" / MARKER).read_text())
    assert (said["base"], said["trained"], said["reduce"]) == (str(base), str(tmp_path / "a"), None)
    hashed = hash_file_contents_of_model(tmp_path / "out")
    (tmp_path / "out" / MARKER).unlink()
    assert hash_file_contents_of_model(tmp_path / "out") == hashed


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_of_tied_matrices_only_the_adapted_one_changes(tmp_path: Path, target: str) -> None:
    tied = write_base(tmp_path / "tied", tie_word_embeddings=True)
    wanted = write_adapter(tmp_path / "a", tied, lora(target_modules=["q_proj", target]))
    merge_adapter(opened(tmp_path / "a"), tmp_path / "out")
    assert torch.allclose(answers(model_of(tmp_path / "out")), wanted, atol=1e-5)
    assert not torch.allclose(answers(load_base(tied)), wanted, atol=1e-2)


def test_tied_matrices_stay_tied_where_others_were_adapted(tmp_path: Path) -> None:
    tied = write_base(tmp_path / "tied", tie_word_embeddings=True)
    wanted = write_adapter(tmp_path / "a", tied, lora())
    merge_adapter(opened(tmp_path / "a"), tmp_path / "out")
    assert "lm_head.weight" not in set(CheckpointReader(tmp_path / "out"))
    assert torch.allclose(answers(model_of(tmp_path / "out")), wanted, atol=1e-5)


def test_rounding_is_told(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", base, lora(), partial(noisy, std=0.01))
    made = merge_adapter(opened(tmp_path / "a"), tmp_path / "out", MergeOptions(dtype="bfloat16", allow_rounding=True))
    stored, before = CheckpointReader(tmp_path / "out"), load_base(base).state_dict()
    lost = total = 0.0
    for name, delta in deltas(tmp_path / "a").items():
        assert stored.dtype(f"{name}.weight") == torch.bfloat16
        whole = before[f"{name}.weight"] + delta
        lost += float((stored.read(f"{name}.weight") - whole).norm()) ** 2
        total += float(delta.norm()) ** 2
    assert made.rounded == pytest.approx((lost / total) ** 0.5, rel=1e-3)
    assert 0.01 < (made.rounded or 0) < 1


def test_rounding_that_loses_the_training_is_refused(base: Path, tmp_path: Path) -> None:
    """A small change disappears in bfloat16, and nothing is written; float32, the default, holds it."""
    write_adapter(tmp_path / "a", base, lora(), partial(noisy, std=0.001))
    with raises(UsageError, "bfloat16", "%", "--allow-rounding"):
        merge_adapter(opened(tmp_path / "a"), tmp_path / "out", MergeOptions(dtype="bfloat16"))
    assert not (tmp_path / "out").exists()
    assert merge_adapter(opened(tmp_path / "a"), tmp_path / "out").rounded == 0.0


def test_the_number_type_is_that_of_the_model(base: Path, tmp_path: Path) -> None:
    with quiet_transformers():
        load_base(base).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    for path in base.glob("token*"):
        (tmp_path / "half" / path.name).write_bytes(path.read_bytes())
    write_adapter(tmp_path / "a", tmp_path / "half", lora())
    options = MergeOptions(dtype="auto", allow_rounding=True)
    assert merge_adapter(opened(tmp_path / "a"), tmp_path / "out", options).dtype == "bfloat16"


def intruding(base: Path, folder: Path, *, std: float = 0.3) -> Path:
    """An adapter whose changes are larger than the weights, or nearly so."""
    write_adapter(folder, base, lora(), partial(noisy, std=std))
    return folder


def test_the_reduction_is_that_of_peft_before_it_cuts_the_rank(base: Path, tmp_path: Path) -> None:
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    adapter = intruding(base, tmp_path / "a", std=0.06)
    made = merge_adapter(opened(adapter), tmp_path / "out", MergeOptions(reduce=0.4, top=6))
    assert all(row["before"] > 0 for row in made.reduced)
    with quiet_transformers():
        model = peft.PeftModel.from_pretrained(load_base(base), str(adapter))
        options = {"top_k": 6, "threshold_epsilon": 0.5, "mitigation_lambda": 0.4, "logging_sink": None}
        cast(Any, reduce_intruder_dimension)(model, **options)
    before, after = CheckpointReader(base), CheckpointReader(tmp_path / "out")
    lost = []
    for row in made.reduced:
        key = f"{row['name']}.weight"
        u, s, vh = torch.linalg.svd(after.read(key) - before.read(key), full_matrices=False)
        cut = (u[:, :4] * s[:4]) @ vh[:4]
        theirs = model.get_submodule(f"base_model.model.{row['name']}").get_delta_weight("intruder_reduced")
        assert torch.allclose(cut, theirs, atol=1e-4)
        lost.append(float(s[4:].norm() / s.norm()))
    assert max(lost) > 0.05  # what the cut to the adapter's rank takes away


def test_a_factor_of_one_changes_nothing_and_zero_leaves_none_behind(base: Path, tmp_path: Path) -> None:
    adapter = intruding(base, tmp_path / "a")
    merge_adapter(opened(adapter), tmp_path / "plain")
    same = merge_adapter(opened(adapter), tmp_path / "same", MergeOptions(reduce=1.0))
    plain = answers(model_of(tmp_path / "plain"))
    assert torch.allclose(answers(model_of(tmp_path / "same")), plain, atol=1e-3)
    assert [row["after"] for row in same.reduced] == [row["before"] for row in same.reduced]
    gone = merge_adapter(opened(adapter), tmp_path / "gone", MergeOptions(reduce=0.0, top=3))
    assert all(row["before"] == 3 for row in gone.reduced)
    assert sum(row["after"] for row in gone.reduced) < sum(row["before"] for row in gone.reduced)
    assert gone.to_dict()["intruders"] == 18


def test_a_whole_model_can_be_reduced_too_and_needs_no_merging(base: Path, tmp_path: Path) -> None:
    merge_adapter(opened(intruding(base, tmp_path / "a")), tmp_path / "whole")
    whole = open_inspected_model(str(tmp_path / "whole"), str(base))
    with raises(UsageError, "--reduce-intruders"):
        merge_adapter(whole, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    again = merge_adapter(whole, tmp_path / "again", MergeOptions(reduce=0.5))
    other = merge_adapter(opened(tmp_path / "a"), tmp_path / "once", MergeOptions(reduce=0.5))
    assert [row["before"] for row in again.reduced] == [row["before"] for row in other.reduced]
    assert torch.allclose(answers(model_of(tmp_path / "again")), answers(model_of(tmp_path / "once")), atol=1e-3)


@pytest.mark.parametrize(
    "options", [{"reduce": 1.5}, {"reduce": -0.1}, {"top": 0}, {"epsilon": 0.0}, {"dtype": "int8"}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        MergeOptions(**options)


class TestFolders:
    def test_what_is_there_is_not_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full/file").write_text("kept")
        (tmp_path / "file").write_text("kept")
        for name in ("full", "file"):
            with raises(UsageError, name, "--out"), merging.new_folder(tmp_path / name):
                pytest.fail("it was opened")
        assert (tmp_path / "full/file").read_text() == "kept"

    def test_an_empty_one_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with merging.new_folder(tmp_path / "empty") as made:
            (made / "file").write_text("new")
        assert (tmp_path / "empty/file").read_text() == "new"

    def test_nowhere_to_put_it(self, tmp_path: Path) -> None:
        with raises(MissingResourceError, str(tmp_path)):
            merging.check_new_folder(tmp_path / "no/such")

    def test_what_failed_leaves_nothing(self, tmp_path: Path) -> None:
        for error, raised in ((OSError(28, "No space left"), StorageError), (ValueError("x"), ValueError)):
            with pytest.raises(raised), merging.new_folder(tmp_path / "out") as made:
                (made / "file").write_text("half")
                raise error
        assert list(tmp_path.iterdir()) == []


def sharded(base: Path, folder: Path, *, same_basis: bool = True, count: int = 3) -> list[Path]:
    """LoRA-SB adapters of shards as they are saved: B and A = (R - R0) A0 with one basis."""
    write_adapter(folder / "0", base, lora())
    first = load_file(folder / "0" / WEIGHTS)
    made = []
    for shard in range(count):
        target = folder / str(shard)
        write_adapter(target, base, lora())
        chance = torch.Generator().manual_seed(100 + shard)
        tensors = {}
        for key, tensor in first.items():
            basis = tensor if same_basis else tensor + torch.randn(tensor.shape, generator=chance)
            tensors[key] = basis
            if "lora_A" in key:
                core, start = torch.randn(4, 4, generator=chance), torch.diag(torch.arange(4.0))
                tensors[key] = (core - start) @ basis
        save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
        made.append(target)
    return made


def mean_delta(adapters: list[Path]) -> dict[str, Any]:
    all_of_them = [deltas(adapter) for adapter in adapters]
    return {name: torch.stack([one[name] for one in all_of_them]).mean(dim=0) for name in all_of_them[0]}


def test_the_mean_core_is_the_mean_change(base: Path, tmp_path: Path) -> None:
    adapters = sharded(base, tmp_path)
    assert average_adapter_cores([opened(adapter) for adapter in adapters], tmp_path / "mean") == 6
    wanted, found = mean_delta(adapters), deltas(tmp_path / "mean")
    for name, delta in wanted.items():
        assert torch.allclose(found[name], delta, atol=1e-6)
    with quiet_transformers():
        peft.PeftModel.from_pretrained(load_base(base), str(tmp_path / "mean"))


def test_factors_that_differ_are_not_averaged_apart(base: Path, tmp_path: Path) -> None:
    """The error of doing so, against the change itself, is what Fed-SB is about."""
    adapters = sharded(base, tmp_path, same_basis=False)
    with raises(DataError, "--concatenate"):
        average_adapter_cores([opened(adapter) for adapter in adapters], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
    stored = [load_file(adapter / WEIGHTS) for adapter in adapters]
    apart = {key: torch.stack([one[key] for one in stored]).mean(dim=0) for key in stored[0]}
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    wrong = 2 * apart[key.format("B")] @ apart[key.format("A")]
    right = mean_delta(adapters)["model.layers.0.self_attn.q_proj"]
    assert (wrong - right).norm() / right.norm() > 0.3


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": ({}, {}),
    "ranks": ({"r": 2, "rank_pattern": {"v_proj": 3}}, {"r": 5, "lora_alpha": 7}),
    "rslora": ({"use_rslora": True}, {}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_concatenation_is_the_mean_change_at_summed_rank(base: Path, tmp_path: Path, name: str) -> None:
    for seed, (folder, options) in enumerate(zip("ab", PAIRS[name], strict=True)):
        write_adapter(tmp_path / folder, base, lora(**options), partial(noisy, seed=seed))
    assert concatenate_adapter_factors([opened(tmp_path / "a"), opened(tmp_path / "b")], tmp_path / "mean") == 6
    found = deltas(tmp_path / "mean")
    for module, delta in mean_delta([tmp_path / "a", tmp_path / "b"]).items():
        assert torch.allclose(found[module], delta, atol=1e-6)
    config = opened(tmp_path / "mean").config
    with quiet_transformers():
        model: Any = peft.PeftModel.from_pretrained(load_base(base), str(tmp_path / "mean"))
        theirs = model.get_submodule("base_model.model.model.layers.1.self_attn.v_proj").get_delta_weight("default")
    assert torch.allclose(theirs, found["model.layers.1.self_attn.v_proj"], atol=1e-6)
    assert (config.r, config.use_rslora) == (8, False)


def test_concatenation_is_that_of_peft(base: Path, tmp_path: Path) -> None:
    for seed, folder in enumerate("ab"):
        write_adapter(tmp_path / folder, base, lora(), partial(noisy, seed=seed))
    concatenate_adapter_factors([opened(tmp_path / "a"), opened(tmp_path / "b")], tmp_path / "mean")
    with quiet_transformers():
        model: Any = peft.PeftModel.from_pretrained(load_base(base), str(tmp_path / "a"), adapter_name="a")
        model.load_adapter(str(tmp_path / "b"), adapter_name="b")
        model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean", combination_type="cat")
    for module, delta in deltas(tmp_path / "mean").items():
        layer = model.get_submodule(f"base_model.model.{module}")
        assert torch.allclose(layer.get_delta_weight("mean"), delta, atol=1e-6)


class TestWhatCannotBeAveraged:
    def test_one_adapter(self, base: Path, tmp_path: Path) -> None:
        write_adapter(tmp_path / "a", base, lora())
        with raises(UsageError, "adapters to average is 1"):
            concatenate_adapter_factors([opened(tmp_path / "a")], tmp_path / "mean")

    @pytest.mark.parametrize("name", ["dora", "pissa"])
    def test_no_plain_lora(self, base: Path, tmp_path: Path, name: str) -> None:
        write_adapter(tmp_path / "a", base, lora())
        write_adapter(tmp_path / "b", base, lora(**CONFIGS[name]))
        for way in (average_adapter_cores, concatenate_adapter_factors):
            with raises(UsageError, "LoRA-SB"):
                way([opened(tmp_path / "a"), opened(tmp_path / "b")], tmp_path / "mean")

    def test_other_matrices_and_other_models(self, base: Path, tmp_path: Path) -> None:
        write_adapter(tmp_path / "a", base, lora())
        write_adapter(tmp_path / "b", base, lora(target_modules=["q_proj"]))
        write_adapter(tmp_path / "c", write_base(tmp_path / "other", seed=3), lora())
        for name, message in (("b", "model.layers.0.mlp.down_proj"), ("c", "base model")):
            with raises(DataError, message):
                concatenate_adapter_factors([opened(tmp_path / "a"), opened(tmp_path / name)], tmp_path / "mean")

    def test_another_scale(self, base: Path, tmp_path: Path) -> None:
        a, b = sharded(base, tmp_path, count=2)
        settings = json.loads((b / "adapter_config.json").read_text())
        (b / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 9}))
        with raises(DataError, "--concatenate"):
            average_adapter_cores([opened(a), opened(b)], tmp_path / "mean")

    def test_another_use(self, base: Path, tmp_path: Path) -> None:
        from rerank.models.adapters import SETTINGS
        from rerank.models.adapters import AdapterSettings as Use

        a, b = sharded(base, tmp_path, count=2)
        Use(model=str(base), method="fullrank").write(a)
        with raises(DataError, "rerank.json"):
            average_adapter_cores([opened(a), opened(b)], tmp_path / "mean")
        Use(model=str(base), method="fullrank").write(b)
        average_adapter_cores([opened(a), opened(b)], tmp_path / "mean")
        assert (tmp_path / "mean" / SETTINGS).read_bytes() == (a / SETTINGS).read_bytes()


WATCHED: dict[str, Any] = {**ATTENTION, "adapter": {"name": "lora", "r": 4, "alpha": 64}, "optimizer": {"lr": 3e-2}}


def ranked(collection: Path, out: Path, **how: Any) -> dict[str, list[str]]:
    spec = RunSpec(collection=f"jsonl:{collection}", depth=6, max_queries=4, dtype="float32", **how)
    run_experiment(spec, Execution(out=out, device="cpu"))
    return {query: [doc.id for doc in ranking.docs] for query, ranking in read_run(out / "run.trec").items()}


def test_it_ranks_as_the_adapter_did(tmp_path: Path) -> None:
    model, collection = model_folder(tmp_path / "model"), collection_folder(tmp_path / "collection")
    train_adapter(recipe(model, collection, **WATCHED), tmp_path / "adapter", device="cpu")
    merge_adapter(open_inspected_model(str(tmp_path / "adapter")), tmp_path / "merged")
    wanted = ranked(collection, tmp_path / "a", adapter=str(tmp_path / "adapter"))
    assert ranked(collection, tmp_path / "b", model=str(tmp_path / "merged")) == wanted
    untrained = {"method": "full:attention,calibrate=false", "prompt": "icr_ie", "max_passage_tokens": 60}
    assert ranked(collection, tmp_path / "c", model=str(model), **untrained) != wanted
    for name in ("rerank.json", "prompt.yaml"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()
    before, after = (json.loads((tmp_path / name / "heads.json").read_text()) for name in ("adapter", "merged"))
    assert after["model"] == {"model": "model", "weights": "beside"}
    assert {key: after[key] for key in after if key != "model"} == {
        key: before[key] for key in before if key != "model"
    }

    # What was merged says what it was trained from, and can be reduced and used in turn.
    again = merge_adapter(
        open_inspected_model(str(tmp_path / "merged")), tmp_path / "reduced", MergeOptions(reduce=1.0)
    )
    assert again.changed > 0
    assert set(ranked(collection, tmp_path / "d", model=str(tmp_path / "reduced"))) == set(wanted)
