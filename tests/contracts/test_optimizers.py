"""Properties that every optimizer must have. Runs over all registered optimizers, experimental ones included."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest

from rerank.finetune.component_registry import OPTIMIZERS
from rerank.finetune.components import PARAMETER_KINDS
from rerank.selector import build_from_selector

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from rerank.finetune.adapters import Dora, Lora  # noqa: E402
from rerank.finetune.kernels.adamw import trainable_parameters  # noqa: E402
from tests.finetune.stepping import backward, lora_model, trainable_shapes  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_ids, tiny_loss, tiny_model  # noqa: E402

#: Beside each with its defaults, the one whose options change what it fits.
NAMES = [*OPTIMIZERS.names(), "galore:factors=true"]
every = pytest.mark.parametrize("name", NAMES)


def make_optimizer(name: str) -> Any:
    """Return an optimizer with ranks below the tiny model's and a new subspace within ten steps."""
    spec = build_from_selector(OPTIMIZERS, name)
    fields = {field.name for field in dataclasses.fields(spec)}
    small = {"rank": 4, "gap": 3, "history": 3, "refine": 4}
    return dataclasses.replace(spec, **{option: small[option] for option in small.keys() & fields})


def make_model(spec: Any) -> Any:
    """Return a tiny model of a kind that the optimizer supports; DoRA adds vectors to the factors."""
    if "full" in spec.fits:
        return tiny_model()
    return lora_model(dora=True, targets=("q_proj", "v_proj", "down_proj"), r=8, zero=True)


def build_optimizer(spec: Any, model: Any) -> tuple[Any, Any]:
    optimizer = spec.build(model, lr=1e-3, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 20)


def train(model: Any, optimizer: Any, scheduler: Any, steps: range) -> list[float]:
    """Train like a trainer: two batches per step, clipping, optimizer and scheduler."""
    losses = []
    for step in steps:
        for part in range(2):
            loss = tiny_loss(model, tiny_ids(2 * step + part)) / 2
            losses.append(backward(loss))
        torch.nn.utils.clip_grad_norm_([weight for _, weight in trainable_parameters(model)], 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return losses


def through_disk(kept: Any) -> Any:
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def count_state_numbers(optimizer: Any) -> int:
    """Return how many numbers the state contains, without step counters."""
    return sum(
        value.numel() if isinstance(value, torch.Tensor) else 1
        for state in optimizer.state.values()
        for key, value in state.items()
        if key != "step"
    )


def same(first: Any, second: Any) -> bool:
    """Return whether two states are bit-identical, including data types."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and bool(torch.equal(first, second))
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@every
def test_it_says_what_it_is(name: str) -> None:
    spec = make_optimizer(name)
    assert spec.summary
    assert spec.paper
    assert not spec.summary.endswith(".")
    assert type(spec).__doc__
    assert spec.fits <= set(PARAMETER_KINDS)
    assert spec.fits
    assert bool(spec.reason) == (spec.fits != set(PARAMETER_KINDS))
    assert spec.needs in ("", "cuda")


@every
def test_ten_steps_are_finite_and_move_the_weights_and_the_state_is_as_large_as_said(name: str) -> None:
    spec = make_optimizer(name)
    model = make_model(spec)
    optimizer, scheduler = build_optimizer(spec, model)
    before = {key: weight.detach().clone() for key, weight in trainable_parameters(model)}
    train(model, optimizer, scheduler, range(1))
    assert count_state_numbers(optimizer) == spec.count_state(trainable_shapes(model))
    train(model, optimizer, scheduler, range(1, 10))
    for key, weight in trainable_parameters(model):
        assert torch.isfinite(weight).all()
        assert not torch.equal(weight, before[key]), f"{key} did not move"


@every
def test_the_loss_falls(name: str) -> None:
    """On one batch: with a plain LoRA, with DoRA if the optimizer needs it, or with the model's own weights."""
    spec, model = make_optimizer(name), tiny_model()
    if "lora" in spec.fits:
        adapter = Dora(r=8) if name == "gradnormlorp" else Lora(r=8)
        model = adapter.attach(model, TinyBatches(), seed=5)
    # LoRA+ multiplies the rate of B by 16.
    optimizer = spec.build(model, lr=1e-3 if name == "lora_plus" else 1e-2, weight_decay=0.0)
    losses = []
    for _ in range(11):
        losses.append(backward(tiny_loss(model, tiny_ids(9))))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.3


@every
def test_a_training_that_is_resumed_is_the_same_to_the_bit(name: str) -> None:
    spec = make_optimizer(name)
    whole, half = make_model(spec), make_model(spec)
    optimizer, scheduler = build_optimizer(spec, whole)
    train(whole, optimizer, scheduler, range(10))

    before, at = build_optimizer(spec, half)
    train(half, before, at, range(5))
    saved = through_disk({"model": half.state_dict(), "optimizer": before.state_dict(), "scheduler": at.state_dict()})
    resumed = make_model(spec)
    after, scheduler = build_optimizer(spec, resumed)
    resumed.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    train(resumed, after, scheduler, range(5, 10))

    assert same(dict(whole.state_dict()), dict(resumed.state_dict()))
    assert same(optimizer.state_dict(), after.state_dict())


@every
def test_the_state_of_narrow_weights_is_wide_and_stays_so_when_loaded(name: str) -> None:
    spec = make_optimizer(name)
    model = make_model(spec).to(torch.bfloat16)
    optimizer, scheduler = build_optimizer(spec, model)
    train(model, optimizer, scheduler, range(2))
    saved = through_disk(optimizer.state_dict())
    again, _ = build_optimizer(spec, model)
    again.load_state_dict(saved)
    assert same(optimizer.state_dict(), again.state_dict())
    assert {weight.dtype for _, weight in trainable_parameters(model)} == {torch.bfloat16}
    for state in again.state.values():
        for value in state.values():
            assert not isinstance(value, torch.Tensor) or value.dtype in (torch.float32, torch.int32, torch.int64)


@every
@pytest.mark.parametrize("part", [0, 1])
def test_a_parameter_without_a_gradient_stays_as_it_is(name: str, part: int) -> None:
    """Every second one: of pairs of factors once the first and once the second, vectors too."""
    spec = make_optimizer(name)
    model = make_model(spec)
    optimizer, _ = build_optimizer(spec, model)
    backward(tiny_loss(model, tiny_ids()))
    still = [weight for _, weight in trainable_parameters(model)][part::2]
    before = [weight.detach().clone() for weight in still]
    for weight in still:
        weight.grad = None
    optimizer.step()
    assert all(map(torch.equal, still, before))
    assert not any(weight in optimizer.state and optimizer.state[weight] for weight in still)


@every
def test_state_that_is_taken_away_begins_anew(name: str) -> None:
    """Layer sampling and refactorization drop the state of parameters."""
    spec = make_optimizer(name)
    model = make_model(spec)
    optimizer, scheduler = build_optimizer(spec, model)
    train(model, optimizer, scheduler, range(2))
    for _, weight in trainable_parameters(model):
        optimizer.state.pop(weight, None)
    train(model, optimizer, scheduler, range(2, 4))
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}


@every
def test_vectors_do_not_decay_and_rates_are_the_schedulers(name: str) -> None:
    spec = make_optimizer(name)
    optimizer, scheduler = build_optimizer(spec, make_model(spec))
    first = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        vectors = {weight.ndim < 2 for weight in group["params"]}
        assert len(vectors) == 1
        assert group["weight_decay"] == (0.0 if vectors == {True} else 0.01)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.95 * rate for rate in first])
