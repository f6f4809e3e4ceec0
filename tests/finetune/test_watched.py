"""Methods that look at gradients first, under losses on attention: behind the last that is watched there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import load_file  # noqa: E402

from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.extra.adapters import Shadow  # noqa: E402
from rerank.finetune.inspection.checkpoints import CheckpointReader, read_peft_config  # noqa: E402
from rerank.finetune.inspection.weight_changes import missing_adapter_modules  # noqa: E402
from rerank.finetune.recipe import Recipe  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from tests.finetune.small import collection_folder, model_folder, recipe  # noqa: E402
from tests.raising import raises  # noqa: E402

WATCHED: dict[str, Any] = {
    "method": {"method": "full:attention,calibrate=false", "prompt": "icr_ie"},
    "losses": [{"name": "distill", "on": "log-attention"}],
    "readout": {"layers": "1-1"},
    "training": {"steps": 2, "accumulation": 1, "dtype": "float32"},
}
#: Of layer 1, the last that is watched.
BEHIND = ("v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": {"name": "lora-ga", "r": 4}},
        {"adapter": {"name": "lora-sb", "r": 4, "eta": 1e-4}},
        {"adapter": {"name": "lora", "r": 4}, "ranks": {"name": "contribution"}},
        {"adapter": {"name": "lora-ga", "r": 4}, "ranks": {"name": "contribution", "least": 1}},
    ],
    ids=["lora-ga", "lora-sb", "contribution", "both"],
)
def test_what_lies_behind_stays_and_all_else_trains(changes: dict[str, Any], tmp_path: Path) -> None:
    model, collection = model_folder(tmp_path / "model"), collection_folder(tmp_path / "collection")
    train_adapter(recipe(model, collection, **WATCHED, **changes), tmp_path / "out", device="cpu")
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers"

    def change(name: str) -> Any:
        return saved[f"{prefix}.{name}.lora_B.weight"] @ saved[f"{prefix}.{name}.lora_A.weight"]

    there = {key.removeprefix(f"{prefix}.").rpartition(".lora_")[0] for key in saved}
    behind = {f"1.{part}.{name}" for name in BEHIND for part in ("self_attn", "mlp")}
    assert all(torch.isfinite(one).all() for one in saved.values())
    assert not any(change(name).any() for name in there & behind)
    assert all(change(name).any() for name in there - behind)
    assert {"0.self_attn.v_proj", "1.self_attn.q_proj"} <= there
    if changes.get("ranks") == {"name": "contribution"}:
        assert not there & behind
    # The model had three layers and was cut to two: the settings say which matrices the adapter is for.
    stored, settings = (
        CheckpointReader(tmp_path / "out" / "adapter_model.safetensors"),
        read_peft_config(tmp_path / "out"),
    )
    assert missing_adapter_modules(stored, CheckpointReader(model), settings) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (WATCHED, "'distill'"),
        ({"training": {"batch_size": 2}}, "batch_size = 2"),
        ({"method": {"method": "pointwise"}, "losses": [{"name": "ranknet"}]}, "one document"),
    ],
)
def test_a_network_of_its_own_is_refused_where_texts_are_packed_or_watched(
    changes: dict[str, Any], reason: str
) -> None:
    given = {"data": {"lists": ["lists.jsonl"]}, "adapter": {"name": "shadow"}, **changes}
    with raises(UsageError, "'shadow'", reason):
        Shadow().check_recipe(Recipe.make(given))
    Shadow().check_recipe(Recipe.make({"data": {"lists": ["lists.jsonl"]}, "adapter": {"name": "shadow"}}))
