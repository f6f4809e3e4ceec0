"""How heads are read: fitted before training, and read at inference as they were trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rerank.finetune.component_registry import LOSSES  # noqa: E402
from rerank.finetune.trainer.calibration_batches import fit_head_weights  # noqa: E402
from rerank.finetune.trainer.examples import TrainingExample  # noqa: E402
from rerank.finetune.trainer.listwise_module import AttentionScorer, ListwiseModule, WeightedLoss  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from tests.finetune.small import collection_folder, model_folder, recipe  # noqa: E402
from tests.finetune.tiny import tiny_model  # noqa: E402

HEADS = [(0, head) for head in range(4)]


def module(*, learnt: bool = True) -> ListwiseModule:
    term = WeightedLoss(name="distill", loss=LOSSES.get("distill")(normalise=False), source="log-attention")
    return ListwiseModule(tiny_model(), [term], AttentionScorer(HEADS, learnt=learnt))


def seen(lists: int = 12, *, power: float, head: int = 2) -> list[tuple[Any, TrainingExample]]:
    """Lists in which one head, less what long documents get for their length, is what the teacher says."""
    chance = torch.Generator().manual_seed(0)
    found = []
    for _ in range(lists):
        lengths = torch.randint(5, 60, (6,), generator=chance).float()
        worth = torch.rand(6, generator=chance) + 0.1
        shares = torch.rand(4, 6, generator=chance)
        shares[head] = worth * lengths**-power
        ends = lengths.cumsum(0).int().tolist()
        passages = tuple(zip([0, *ends[:-1]], ends, strict=True))
        ranks = tuple((-worth).argsort().argsort().add(1).tolist())
        scores = tuple((worth.log()).tolist())
        found.append((shares / 100, TrainingExample(texts=((0,),), passages=passages, ranks=ranks, scores=scores)))
    return found


@pytest.mark.parametrize(("power", "learnt"), [(0.0, True), (-1.0, False)])
def test_the_head_that_knows_is_found_and_so_is_the_power(power: float, learnt: bool) -> None:
    made = module(learnt=learnt)
    fit_head_weights(made, seen(power=power))
    readout = made.readout
    assert readout is not None
    weights = dict(zip(readout.heads, readout.weights.tolist(), strict=True))
    assert max(weights, key=weights.__getitem__) == (0, 2)
    assert weights[0, 2] > 0.5
    assert float(readout.power.detach()) == pytest.approx(power, abs=0.25)
    assert readout.logits.requires_grad is learnt
    assert readout.logits.grad is None


def test_what_was_fitted_is_kept_and_read(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model")
    collection = collection_folder(tmp_path / "collection")
    asked = recipe(
        model,
        collection,
        method={"method": "full:attention,calibrate=false", "prompt": "attention_both"},
        losses=[{"name": "distill", "on": "log-attention"}],
        readout={"layers": "0-1", "fit": 6, "learn": False},
        validation={"collection": f"jsonl:{collection}", "depth": 6, "max_queries": 4, "every": 2},
    )
    train_adapter(asked, tmp_path / "out", device="cpu")
    heads = json.loads((tmp_path / "out" / "heads.json").read_text())
    assert len(heads["weights"]) == len(heads["heads"]) == 8
    assert sum(heads["weights"]) == pytest.approx(1, abs=1e-4)
    assert heads["weights"] == sorted(heads["weights"], reverse=True)
    assert heads["length_power"] != 0
