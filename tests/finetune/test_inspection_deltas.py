"""What training changed, read from real folders: adapters of several kinds, whole models, what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from rerank.errors import DataError, MissingResourceError, RerankError, UsageError  # noqa: E402
from rerank.finetune.inspection.checkpoints import (  # noqa: E402  # noqa: E402
    CheckpointReader,
    InspectedModel,
    is_plain_lora,
    iterate_weight_changes,
    open_inspected_model,
)
from rerank.finetune.inspection.report import InspectionOptions, inspect_trained_matrices  # noqa: E402
from tests.finetune.inspected import TARGETS, load_base, lora, merged_weights, noisy, trained, write_adapter, write_base  # noqa: E402
from tests.raising import raises  # noqa: E402

pytestmark = [  # what PEFT says when these adapters are made and saved
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("models") / "base")


def deltas(subject: InspectedModel) -> dict[str, Any]:
    return {change.name: change.delta for change in iterate_weight_changes(subject, CheckpointReader(subject.base))}


PLAIN: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 3}, "use_rslora": True},
    "gaussian": {"init_lora_weights": "gaussian"},
}
MOVING: dict[str, Any] = {
    "pissa": lambda: lora(init_lora_weights="pissa"),
    "dora": lambda: lora(use_dora=True),
    "head": lambda: lora(modules_to_save=["lm_head"]),
    "embeddings": lambda: lora(target_modules=[*TARGETS, "embed_tokens"]),
    "vera": lambda: peft.VeraConfig(r=8, target_modules=["q_proj"]),
    "shira": lambda: peft.ShiraConfig(r=2, target_modules=list(TARGETS)),
    "oft": lambda: peft.OFTConfig(oft_block_size=8, target_modules=list(TARGETS)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_factors_say_what_merging_does(base: Path, tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path / "a", base, lora(**PLAIN[name]))
    subject = open_inspected_model(str(tmp_path / "a"))
    assert subject.kind == "LORA"
    assert is_plain_lora(CheckpointReader(subject.folder / "adapter_model.safetensors"), subject.config)
    before, after = load_base(base).state_dict(), merged_weights(tmp_path / "a", base)
    found = deltas(subject)
    assert len(found) == 6
    for module, delta in found.items():
        assert torch.allclose(delta, after[f"{module}.weight"] - before[f"{module}.weight"], atol=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", MOVING)
def test_other_adapters_are_merged_and_compared_with_the_untouched_model(base: Path, tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path / "a", base, MOVING[name]())
    subject = open_inspected_model(str(tmp_path / "a"))
    assert not is_plain_lora(CheckpointReader(subject.folder / "adapter_model.safetensors"), subject.config)
    before, after = load_base(base).state_dict(), merged_weights(tmp_path / "a", base)
    found = deltas(subject)
    keys = {key.removesuffix(".weight") for key, weight in after.items() if not torch.equal(weight, before[key])}
    assert set(found) == keys
    for module in found:
        key = module if module in before else f"{module}.weight"
        assert torch.allclose(found[module].reshape(before[key].shape), after[key] - before[key], atol=1e-6)


def test_vectors_are_counted_apart(tmp_path: Path) -> None:
    base = write_base(tmp_path / "biased", attention_bias=True, mlp_bias=True)
    write_adapter(tmp_path / "a", base, lora(bias="all"))
    found = inspect_trained_matrices(open_inspected_model(str(tmp_path / "a")))
    assert (len(found.rows), found.totals["vectors"]) == (6, 2 * 7)
    assert {row.rank for row in found.rows} == {4}


def test_rank_of_pissa_is_twice_its_own(base: Path, tmp_path: Path) -> None:
    """What is added is B A less the B0 A0 that PEFT takes out of the model: the factors alone would say rank 4."""
    write_adapter(tmp_path / "a", base, lora(init_lora_weights="pissa"))
    rows = inspect_trained_matrices(open_inspected_model(str(tmp_path / "a"))).rows
    assert {row.rank for row in rows} == {8}


def test_a_short_training(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", base, lora(), trained)
    found = inspect_trained_matrices(open_inspected_model(str(tmp_path / "a")), InspectionOptions(reduction=0.25))
    assert [row.name.rpartition(".")[2] for row in found.rows] == ["down_proj", "q_proj", "v_proj"] * 2
    assert {(row.rows, row.columns) for row in found.rows} == {(64, 128), (64, 64), (32, 64)}
    assert {row.rank for row in found.rows} == {4}
    assert all(1 <= row.entropy_rank <= 4 + 1e-6 for row in found.rows)
    assert all(row.relative is not None and row.relative > 0 for row in found.rows)
    assert all(row.profile is not None and 1 <= row.profile <= min(row.rows, row.columns) for row in found.rows)
    totals = found.totals
    matrices = 2 + 2 * 7  # embeddings and head, and seven in each of two layers
    assert (totals["matrices"], totals["unchanged"], totals["vectors"]) == (6, matrices - 6, 0)
    assert totals["parameters"] == 2 * (64 * 128 + 64 * 64 + 32 * 64)
    entries = 2 * 260 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    still = sum(row.sparsity * row.rows * row.columns for row in found.rows)
    assert totals["sparsity"] == pytest.approx(still / totals["parameters"])
    assert totals["sparsity_of_model"] == pytest.approx(1 - (totals["parameters"] - still) / entries)
    weights = load_base(base).state_dict()
    norms = sum(float(weights[f"{row.name}.weight"].norm()) ** 2 for row in found.rows)
    assert totals["relative"] == pytest.approx((sum(row.norm**2 for row in found.rows) / norms) ** 0.5, rel=1e-5)
    assert totals["intruders"] == sum(row.intruders or 0 for row in found.rows)
    assert found.notes == ()
    json.dumps(found.to_dict(), allow_nan=False)


def test_ranks_are_counted_without_decompositions_of_the_model(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", base, lora(rank_pattern={"v_proj": 2}))
    found = inspect_trained_matrices(open_inspected_model(str(tmp_path / "a")), InspectionOptions(top=0))
    assert [row.rank for row in found.rows] == [4, 4, 2] * 2
    assert {row.intruders for row in found.rows} == {None}
    assert found.totals["intruders"] is None


def test_an_adapter_that_was_not_trained(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", base, lora(), lambda model: None)
    found = inspect_trained_matrices(open_inspected_model(str(tmp_path / "a")))
    assert found.rows == ()
    assert found.notes[0].startswith("No matrix was changed")
    assert found.totals["sparsity_of_model"] == 1.0


def test_a_whole_model(base: Path, tmp_path: Path) -> None:
    model = load_base(base)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, :2] += torch.tensor([1.0, 5e-6])
        model.model.norm.weight += 1
    model.save_pretrained(tmp_path / "tuned", max_shard_size="100KB")
    assert len(list((tmp_path / "tuned").glob("*.safetensors"))) > 1
    found = inspect_trained_matrices(open_inspected_model(str(tmp_path / "tuned"), str(base)))
    (row,) = found.rows
    assert (row.name, row.rank, found.totals["vectors"]) == ("model.layers.1.mlp.up_proj", 1, 1)
    assert row.norm == pytest.approx(1.0)
    assert row.sparsity == 1 - 1 / (128 * 64)
    assert found.totals["unchanged"] == 15


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_head_that_shares_the_embeddings(tmp_path: Path, target: str) -> None:
    """Only the one that was adapted has changed, though both are one tensor in the untrained model."""
    tied = write_base(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in set(CheckpointReader(tied))
    write_adapter(tmp_path / "a", tied, lora(target_modules=["q_proj", target]))
    found = deltas(open_inspected_model(str(tmp_path / "a")))
    assert [name for name in found if "layers" not in name] == [
        "lm_head" if target == "lm_head" else "model.embed_tokens"
    ]


def test_the_files_of_some_models_leave_the_prefix_out(base: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", base, lora())
    shutil.copytree(base, tmp_path / "bare")
    path = tmp_path / "bare/model.safetensors"
    save_file({name.removeprefix("model."): t for name, t in load_file(path).items()}, path, metadata={"format": "pt"})
    whole = deltas(open_inspected_model(str(tmp_path / "a")))
    bare = deltas(open_inspected_model(str(tmp_path / "a"), str(tmp_path / "bare")))
    assert all(torch.equal(whole[name], bare[name]) for name in whole)


def test_layer_10_comes_after_layer_2(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", layers=11)
    write_adapter(tmp_path / "a", base, lora(target_modules=["q_proj"], r=1))
    found = inspect_trained_matrices(open_inspected_model(str(tmp_path / "a")), InspectionOptions(top=0))
    assert [row.name.split(".")[2] for row in found.rows] == list(map(str, range(11)))


class TestWhatDoesNotFit:
    @pytest.fixture
    def adapter(self, base: Path, tmp_path: Path) -> Path:
        write_adapter(tmp_path / "a", base, lora())
        return tmp_path / "a"

    def refuse(self, adapter: Path, model: Path | None, error: type[RerankError], *named: object) -> None:
        with raises(error, *named):
            list(inspect_trained_matrices(open_inspected_model(str(adapter), str(model or ""))).rows)

    def test_no_folder_and_an_empty_one(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "none", None, MissingResourceError, tmp_path / "none")
        (tmp_path / "empty").mkdir()
        self.refuse(tmp_path / "empty", None, MissingResourceError, "adapter_config.json", "config.json")

    def test_weights_that_are_damaged_or_gone(self, adapter: Path) -> None:
        (adapter / "adapter_model.safetensors").write_bytes(b"no tensors")
        self.refuse(adapter, None, DataError, "adapter_model.safetensors")
        (adapter / "adapter_model.safetensors").unlink()
        self.refuse(adapter, None, MissingResourceError, "adapter_model.safetensors")

    @pytest.mark.parametrize("text", ["no json", "[1]", '{"peft_type": "NEWER", "base_model_name_or_path": "BASE"}'])
    def test_settings_that_say_nothing(self, adapter: Path, base: Path, text: str) -> None:
        (adapter / "adapter_config.json").write_text(text.replace("BASE", str(base)))
        self.refuse(adapter, None, DataError, adapter / "adapter_config.json")

    def test_a_base_that_is_not_here(self, adapter: Path, base: Path) -> None:
        settings = json.loads((adapter / "adapter_config.json").read_text())
        for named, error, value in (
            ("/not/here/at-all", MissingResourceError, "/not/here/at-all"),
            (None, UsageError, "--model"),
        ):
            (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": named}))
            self.refuse(adapter, None, error, value, "--model")
            assert inspect_trained_matrices(
                open_inspected_model(str(adapter), str(base)), InspectionOptions(top=0)
            ).rows

    def test_a_base_of_other_shapes(self, adapter: Path, tmp_path: Path) -> None:
        other = write_base(tmp_path / "other", head_dim=32)
        self.refuse(adapter, other, DataError, "(64, 64)", "(128, 64)")

    @pytest.mark.parametrize("dora", [False, True])  # of DoRA's layers, PEFT would load those that fit and say nothing
    def test_a_base_with_fewer_layers(self, base: Path, tmp_path: Path, dora: bool) -> None:
        write_adapter(tmp_path / "b", base, lora(use_dora=dora))
        other = write_base(tmp_path / "other", layers=1)
        self.refuse(tmp_path / "b", other, DataError, "model.layers.1")

    @pytest.mark.parametrize("dora", [False, True])
    def test_a_base_with_more_layers_is_suspicious(self, base: Path, tmp_path: Path, dora: bool) -> None:
        write_adapter(tmp_path / "b", base, lora(use_dora=dora))
        other = write_base(tmp_path / "other", layers=3)
        (message,) = inspect_trained_matrices(
            open_inspected_model(str(tmp_path / "b"), str(other)), InspectionOptions(top=0)
        ).notes
        assert "3 matrices" in message
        assert "model.layers.2.mlp.down_proj" in message

    def test_numbers_that_are_not_finite(self, adapter: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        weights = load_file(path)
        next(iter(weights.values()))[0, 0] = float("nan")
        save_file(weights, path)
        self.refuse(adapter, None, DataError, "not finite")

    def test_a_learned_prompt(self, base: Path, tmp_path: Path) -> None:
        config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
        write_adapter(tmp_path / "p", base, config)
        self.refuse(tmp_path / "p", None, UsageError, "PROMPT_TUNING")

    def test_a_whole_model_without_a_base(self, base: Path) -> None:
        self.refuse(base, None, UsageError, base, "--model")

    def test_quantised_weights(self, adapter: Path, base: Path, tmp_path: Path) -> None:
        shutil.copytree(base, tmp_path / "int")
        path = tmp_path / "int/model.safetensors"
        save_file({name: (t * 99).to(torch.int8) for name, t in load_file(path).items()}, path)
        self.refuse(adapter, tmp_path / "int", DataError, "torch.int8")

    @pytest.mark.parametrize("index", ["{}", '{"weight_map": {"a": "gone.safetensors"}}'])
    def test_an_index_that_is_wrong(self, adapter: Path, base: Path, tmp_path: Path, index: str) -> None:
        shutil.copytree(base, tmp_path / "parts")
        (tmp_path / "parts/model.safetensors.index.json").write_text(index)
        self.refuse(adapter, tmp_path / "parts", DataError, "model.safetensors.index.json")


@pytest.mark.parametrize(
    "options", [{"top": -1}, {"epsilon": 0.0}, {"epsilon": 1.5}, {"tolerance": -1.0}, {"reduction": 1.0}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with raises(UsageError, next(iter(options))):
        InspectionOptions(**options)


def test_our_own_note_of_the_base_comes_first(base: Path, tmp_path: Path) -> None:
    from rerank.models.adapters import AdapterSettings as Use

    write_adapter(tmp_path / "a", base, lora(), noisy)
    settings = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "/not/here"}))
    Use(model=f"hf:{base}", method="fullrank").write(tmp_path / "a")
    assert open_inspected_model(str(tmp_path / "a")).base == base


def test_the_hub_id_of_an_embedded_model_is_its_pulled_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerank.models import MARKER, MODELS, model_folder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = "smollm2-135m"
    shutil.copytree(base, model_folder(name))
    (model_folder(name) / MARKER).write_text("{}")
    write_adapter(tmp_path / "a", base, lora())
    settings = json.loads((tmp_path / "a/adapter_config.json").read_text())
    settings["base_model_name_or_path"] = MODELS[name].hub_id
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(settings))
    assert open_inspected_model(str(tmp_path / "a")).base == model_folder(name)
