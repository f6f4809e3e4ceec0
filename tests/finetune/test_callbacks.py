"""Refactorization: the product stays, the factors are balanced, the moments begin anew, and resuming is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rerank.errors import UsageError
from rerank.finetune.components import CallbackPart
from rerank.finetune.extra.callbacks import Refactor
from rerank.finetune.extra.optimizers import LoraPro
from rerank.finetune.optimizers import Adamw

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from rerank.finetune.kernels.adamw_variants import find_factor_pairs  # noqa: E402
from rerank.finetune.kernels.step_callbacks import balance_factors  # noqa: E402
from tests.finetune.stepping import gradients, lora_model, same_weights, trainer  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_logits, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402


class Watch(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """After each step, the ratio of the norms of A and B, and the step counts of the moments."""

    def __init__(self) -> None:
        self.ratios: list[float] = []
        self.counts: list[set[float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        pair = find_factor_pairs(given["model"])[0]
        self.ratios.append(float(pair.a.detach().norm() / pair.b.detach().norm()))
        self.counts.append({float(one["step"]) for one in given["optimizer"].state.values()})


def test_the_product_stays_and_the_factors_share_its_singular_values() -> None:
    a, b = gradients(1, 4, 10)[0] * 7, gradients(1, 12, 4, seed=3)[0]
    found = balance_factors(a, b)
    assert found is not None
    new_a, new_b = found
    assert torch.allclose(new_b @ new_a, b @ a, atol=1e-12)
    values = torch.linalg.svdvals(b @ a)[:4]
    assert torch.allclose(new_a @ new_a.T, torch.diag(values), atol=1e-10)
    assert torch.allclose(new_b.T @ new_b, torch.diag(values), atol=1e-10)


@pytest.mark.parametrize(
    ("rows", "columns", "rank"), [(12, 10, 4), (3, 10, 4), (12, 3, 4)], ids=["a zero column", "short B", "short A"]
)
def test_a_product_of_lower_rank_is_left_alone(rows: int, columns: int, rank: int) -> None:
    a, b = gradients(1, rank, columns)[0], gradients(1, rows, rank)[0]
    b[:, 0] = 0
    assert balance_factors(a, b) is None
    assert balance_factors(a, torch.zeros_like(b)) is None


def test_the_model_computes_the_same_after_it() -> None:
    model = lora_model(dora=True)
    before = tiny_logits(model)
    callback = Refactor(every=1).callback(model, TinyBatches(), seed=0)
    optimizer = Adamw().build(model, lr=0.1, weight_decay=0.0)
    state = transformers.TrainerState(global_step=1, max_steps=9)
    first = [pair.a.detach().clone() for pair in find_factor_pairs(model)]
    callback.on_step_end(None, state, None, optimizer=optimizer)
    assert float((tiny_logits(model) - before).abs().max()) < 2e-6
    for pair, was in zip(find_factor_pairs(model), first, strict=True):
        assert not torch.equal(pair.a, was)
        assert float((pair.a.norm() / pair.b.norm()).detach()) == pytest.approx(1.0, abs=1e-5)


def test_it_acts_every_so_many_steps_and_not_after_the_last(tmp_path: Path) -> None:
    model, watch = lora_model(dora=True), Watch()
    callbacks = [Refactor(every=2).callback(model, TinyBatches(), seed=0), watch]
    trainer(model, Adamw(), tmp_path, callbacks=callbacks).train()
    balanced_after = [step for step, ratio in enumerate(watch.ratios, 1) if ratio == pytest.approx(1.0, abs=1e-5)]
    assert balanced_after == [2, 4]
    # DoRA's magnitudes keep their moments; those of the factors begin anew.
    assert watch.counts == [{1.0}, {2.0}, {1.0, 3.0}, {4.0}, {1.0, 5.0}, {2.0, 6.0}]


@pytest.mark.parametrize("spec", [Adamw(), LoraPro()], ids=["adamw", "lora-pro"])
@pytest.mark.parametrize("at", [2, 3], ids=["of a step that balanced", "of another"])
def test_training_that_is_resumed_is_the_same_to_the_bit(tmp_path: Path, spec: Any, at: int) -> None:
    def run(folder: Path, resume: str | None = None) -> Any:
        torch.manual_seed(0)
        model = lora_model()
        callback = Refactor(every=2).callback(model, TinyBatches(), seed=0)
        training = trainer(model, spec, folder, callbacks=[callback], save_steps=1)
        training.train(resume_from_checkpoint=resume)
        return training

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / f"checkpoint-{at}"))
    assert same_weights(whole.model, resumed.model)
    counts = [[float(one["step"]) for one in t.optimizer.state.values()] for t in (whole, resumed)]
    assert counts[0] == counts[1]
    assert set(counts[0]) == {2.0}


def test_what_makes_no_sense_is_refused() -> None:
    with raises(UsageError, "every", "0"):
        Refactor(every=0)
    with raises(UsageError, "lora_A"):
        Refactor().callback(tiny_model(), TinyBatches(), seed=0)


def test_it_is_of_factors_alone() -> None:
    spec: CallbackPart = Refactor()
    assert spec.fits == {"lora"}
    assert spec.reason
    assert spec.paper
    assert spec.summary
