"""What every optimizer must show, whatever it computes. Runs over everything that is registered."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest

from rerank.finetune.parts import SHAPES
from rerank.registry import Registry
from rerank.selector import build

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from rerank.finetune.optimizers.base.parameter_groups import trained, trained_shapes  # noqa: E402
from tests.finetune.stepping import backward, lora_model  # noqa: E402
from tests.finetune.tiny import tiny_ids, tiny_loss, tiny_model  # noqa: E402

rooms = Registry("finetune.optimizers", "optimizer")
#: Beside each with its defaults, the one whose options change what it fits.
NAMES = [*rooms.names(), "galore:factors=true"]
every = pytest.mark.parametrize("name", NAMES)


def opened(name: str) -> Any:
    """An optimizer, with ranks below the tiny model's and a new subspace within ten steps."""
    spec = build(rooms, name)
    fields = {field.name for field in dataclasses.fields(spec)}
    small = {"rank": 4, "gap": 3, "history": 3, "refine": 4}
    return dataclasses.replace(spec, **{option: small[option] for option in small.keys() & fields})


def model_for(spec: Any) -> Any:
    """A tiny model in the first shape that fits; DoRA, so that there are vectors beside the factors."""
    if "full" in spec.fits:
        return tiny_model()
    return lora_model(dora=True, targets=("q_proj", "v_proj", "down_proj"), r=8, zero=True)


def started(spec: Any, model: Any) -> tuple[Any, Any]:
    optimizer = spec.build(model, lr=1e-3, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 20)


def train(model: Any, optimizer: Any, scheduler: Any, steps: range) -> list[float]:
    """As a trainer does it: two batches a step, clipping, the optimizer, the scheduler."""
    losses = []
    for step in steps:
        for part in range(2):
            loss = tiny_loss(model, tiny_ids(2 * step + part)) / 2
            losses.append(backward(loss))
        torch.nn.utils.clip_grad_norm_([weight for _, weight in trained(model)], 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return losses


def through_disk(kept: Any) -> Any:
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def numbers(optimizer: Any) -> int:
    """What the state holds, less step counters."""
    return sum(
        value.numel() if isinstance(value, torch.Tensor) else 1
        for state in optimizer.state.values()
        for key, value in state.items()
        if key != "step"
    )


def same(first: Any, second: Any) -> bool:
    """Equal to the bit, number types too."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and bool(torch.equal(first, second))
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@every
def test_it_says_what_it_is(name: str) -> None:
    spec = opened(name)
    assert spec.summary
    assert spec.paper
    assert not spec.summary.endswith(".")
    assert type(spec).__doc__
    assert spec.fits <= set(SHAPES)
    assert spec.fits
    assert bool(spec.reason) == (spec.fits != set(SHAPES))
    assert spec.needs in ("", "cuda")


@every
def test_ten_steps_are_finite_and_move_the_weights_and_the_state_is_as_large_as_said(name: str) -> None:
    spec = opened(name)
    model = model_for(spec)
    optimizer, scheduler = started(spec, model)
    before = {key: weight.detach().clone() for key, weight in trained(model)}
    train(model, optimizer, scheduler, range(1))
    assert numbers(optimizer) == spec.state(trained_shapes(model))
    train(model, optimizer, scheduler, range(1, 10))
    for key, weight in trained(model):
        assert torch.isfinite(weight).all()
        assert not torch.equal(weight, before[key]), f"{key} did not move"


@every
def test_a_training_that_is_resumed_is_the_same_to_the_bit(name: str) -> None:
    spec = opened(name)
    whole, half = model_for(spec), model_for(spec)
    optimizer, scheduler = started(spec, whole)
    train(whole, optimizer, scheduler, range(10))

    before, at = started(spec, half)
    train(half, before, at, range(5))
    saved = through_disk({"model": half.state_dict(), "optimizer": before.state_dict(), "scheduler": at.state_dict()})
    resumed = model_for(spec)
    after, scheduler = started(spec, resumed)
    resumed.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    train(resumed, after, scheduler, range(5, 10))

    assert same(dict(whole.state_dict()), dict(resumed.state_dict()))
    assert same(optimizer.state_dict(), after.state_dict())


@every
def test_the_state_of_narrow_weights_is_wide_and_stays_so_when_loaded(name: str) -> None:
    spec = opened(name)
    model = model_for(spec).to(torch.bfloat16)
    optimizer, scheduler = started(spec, model)
    train(model, optimizer, scheduler, range(2))
    saved = through_disk(optimizer.state_dict())
    again, _ = started(spec, model)
    again.load_state_dict(saved)
    assert same(optimizer.state_dict(), again.state_dict())
    assert {weight.dtype for _, weight in trained(model)} == {torch.bfloat16}
    for state in again.state.values():
        for value in state.values():
            assert not isinstance(value, torch.Tensor) or value.dtype in (torch.float32, torch.int32, torch.int64)


@every
@pytest.mark.parametrize("part", [0, 1])
def test_a_parameter_without_a_gradient_stays_as_it_is(name: str, part: int) -> None:
    """Every second one: of pairs of factors once the first and once the second, vectors too."""
    spec = opened(name)
    model = model_for(spec)
    optimizer, _ = started(spec, model)
    backward(tiny_loss(model, tiny_ids()))
    still = [weight for _, weight in trained(model)][part::2]
    before = [weight.detach().clone() for weight in still]
    for weight in still:
        weight.grad = None
    optimizer.step()
    assert all(map(torch.equal, still, before))
    assert not any(weight in optimizer.state and optimizer.state[weight] for weight in still)


@every
def test_state_that_is_taken_away_begins_anew(name: str) -> None:
    """What layer sampling and refactorization do."""
    spec = opened(name)
    model = model_for(spec)
    optimizer, scheduler = started(spec, model)
    train(model, optimizer, scheduler, range(2))
    for _, weight in trained(model):
        optimizer.state.pop(weight)
    train(model, optimizer, scheduler, range(2, 4))
    assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}


@every
def test_vectors_do_not_decay_and_rates_are_the_schedulers(name: str) -> None:
    spec = opened(name)
    optimizer, scheduler = started(spec, model_for(spec))
    first = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        vectors = {weight.ndim < 2 for weight in group["params"]}
        assert len(vectors) == 1
        assert group["weight_decay"] == (0.0 if vectors == {True} else 0.01)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.95 * rate for rate in first])
