"""A merged adapter of `rerank train` says how it is used, and ranks as the adapter did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rerank.experiment import run_experiment  # noqa: E402
from rerank.experiment.spec import Execution, RunSpec  # noqa: E402
from rerank.finetune.inspection.checkpoints import open_inspected_model  # noqa: E402
from rerank.finetune.inspection.merging import MergeOptions, merge_adapter  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from rerank.io.run_files import read_run  # noqa: E402
from tests.finetune.small import collection_folder, model_folder, recipe  # noqa: E402

ATTENTION: dict[str, Any] = {
    "method": {"method": "full:attention,calibrate=false", "prompt": "icr_ie"},
    "losses": [{"name": "distill", "on": "log-attention"}],
    "readout": {"layers": "1-1"},
    "adapter": {"name": "lora", "r": 4, "alpha": 64},
    "optimizer": {"lr": 3e-2},
}


def ranked(collection: Path, out: Path, **how: Any) -> dict[str, list[str]]:
    """Query -> documents in order."""
    spec = RunSpec(collection=f"jsonl:{collection}", depth=6, max_queries=4, dtype="float32", **how)
    run_experiment(spec, Execution(out=out, device="cpu"))
    return {query: [doc.id for doc in ranking.docs] for query, ranking in read_run(out / "run.trec").items()}


def test_it_ranks_as_the_adapter_did(tmp_path: Path) -> None:
    model, collection = model_folder(tmp_path / "model"), collection_folder(tmp_path / "collection")
    train_adapter(recipe(model, collection, **ATTENTION), tmp_path / "adapter", device="cpu")
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
