"""Optimizers of pairs of factors, against least squares, formulas and peft."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rerank.errors import UsageError
from rerank.finetune.extra.optimizers import LoraFa, LoraPro, Riemannian
from rerank.finetune.optimizers import LoraPlus

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from rerank.finetune.kernels.adamw import ExactAdamW  # noqa: E402
from rerank.finetune.kernels.adamw_variants import (  # noqa: E402
    EquivalentGradientAdamW,
    FactorAdamW,
    FactorPair,
    find_factor_pairs,
    lora_fa_adjustment,
    lora_pro_adjustment,
)
from tests.finetune.stepping import backward, gradients, lora_model  # noqa: E402
from tests.finetune.tiny import tiny_ids, tiny_loss, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402


def a_pair(m: int = 12, n: int = 10, r: int = 3) -> tuple[FactorPair, Any, Any, Any]:
    """Return a factor pair in float64, a gradient g of its matrix, and the resulting gradients dA and dB."""
    g, a, b = gradients(3, m, n)
    a, b = a[:r], b[:, :r].contiguous()
    kept_a, kept_b = (torch.nn.Parameter(factor, requires_grad=False) for factor in (a, b))
    pair = FactorPair(kept_a, kept_b, 2.0)
    return pair, g, 2.0 * b.T @ g, 2.0 * g @ a.T


def onto(rows: Any) -> Any:
    """Return the projection onto the row space of a matrix (r x n)."""
    return rows.T @ torch.linalg.inv(rows @ rows.T) @ rows


def test_lora_pro_comes_as_near_to_the_gradient_as_factors_can() -> None:
    pair, g, da, db = a_pair()
    a, b = pair.a.detach(), pair.b.detach()
    ga, gb = lora_pro_adjustment(1e-12)(pair, da, db)
    found = 2.0 * (b @ ga + gb @ a)
    by_b, by_a = onto(b.T), onto(a)
    eye = torch.eye(12, dtype=torch.float64)
    assert torch.allclose(found, by_b @ g + (eye - by_b) @ g @ by_a, atol=1e-8)
    # All that a pair of gradients can reach is the column space of this map of (gA, gB).
    reach = np.concatenate(
        [np.kron(b.numpy(), np.eye(10)), np.kron(np.eye(12), a.numpy().T)], axis=1
    )  # of row-major g: (120 x 30 + 36)
    best = np.linalg.lstsq(reach, g.numpy().ravel(), rcond=None)[0]
    distance = np.linalg.norm(reach @ best - g.numpy().ravel())
    assert float((found - g).norm()) == pytest.approx(distance, rel=1e-9)
    assert distance < 0.99 * float((2.0 * (b @ da + db @ a) - g).norm())


def test_lora_pro_is_of_all_solutions_the_nearest_to_the_plain_gradients() -> None:
    """(X A, -B X) changes nothing in the sum, whatever X is."""
    pair, _, da, db = a_pair()
    a, b = pair.a.detach(), pair.b.detach()
    ga, gb = lora_pro_adjustment(1e-12)(pair, da, db)

    def off(x: Any) -> float:
        return float((ga + x @ a - da).square().sum() + (gb - b @ x - db).square().sum())

    best = off(torch.zeros(3, 3, dtype=torch.float64))
    for move in gradients(8, 3, 3, seed=9):
        for size in (0.01, 1.0):
            assert off(size * move) > best


def test_lora_pro_begins_from_a_factor_of_zeros() -> None:
    pair, g, _, db = a_pair()
    pair.b.data.zero_()
    a = pair.a.detach()
    ga, gb = lora_pro_adjustment(1e-8)(pair, torch.zeros(3, 10, dtype=torch.float64), db)
    assert torch.equal(ga, torch.zeros(3, 10, dtype=torch.float64))
    assert torch.allclose(gb, db @ torch.linalg.inv(a @ a.T) / 4, atol=1e-6)
    assert torch.allclose(2.0 * gb @ a, g @ onto(a), atol=1e-6)


def test_lora_pro_follows_adam_on_the_equivalent_gradient_of_the_matrix() -> None:
    """The moments are those of e = s (B gA + gB A), and each step is the projection of Adam's direction on e."""
    pair, *_ = a_pair()
    pair.a.requires_grad_()
    pair.b.requires_grad_()
    optimizer = EquivalentGradientAdamW([pair.a, pair.b], pairs=[pair], damping=1e-12, lr=1e-6, **ADAM)
    optimizer.param_groups[0]["weight_decay"] = 0.1
    full = torch.nn.Parameter(torch.zeros(12, 10, dtype=torch.float64))
    adam = torch.optim.Adam([full], lr=1.0, **ADAM)
    eye = torch.eye(12, dtype=torch.float64)
    for g in gradients(4, 12, 10, seed=5):
        a, b = pair.a.detach().clone(), pair.b.detach().clone()
        by_a, by_b = onto(a), onto(b.T)

        def reachable(x: Any, by_a: Any = by_a, by_b: Any = by_b) -> Any:
            return by_b @ x + (eye - by_b) @ x @ by_a

        pair.a.grad, pair.b.grad = 2.0 * b.T @ g, 2.0 * g @ a.T
        before, full.grad = full.detach().clone(), reachable(g)
        adam.step()
        optimizer.step()
        # W' - W = s (B' A' - B A) to first order, where weight decay takes lr decay W of each factor.
        moved = 2.0 * (b @ (pair.a.detach() - a) + (pair.b.detach() - b) @ a) / 1e-6
        assert torch.allclose(moved, reachable(full.detach() - before) - 2 * 0.1 * 2.0 * b @ a, atol=1e-4)
    assert torch.allclose(optimizer.state[pair.b]["exp_avg"], adam.state[full]["exp_avg"], atol=1e-4)
    assert optimizer.state[pair.b]["exp_avg_sq"].shape == (12, 10)


def test_moments_of_factors_in_an_earlier_checkpoint_start_anew(caplog: pytest.LogCaptureFixture) -> None:
    pair, g, da, db = a_pair()
    pair.a.grad, pair.b.grad = da, db
    earlier = ExactAdamW([pair.a, pair.b], lr=0.1)
    earlier.step()
    optimizer = EquivalentGradientAdamW([pair.a, pair.b], pairs=[pair], damping=1e-8, lr=0.1, **ADAM)
    optimizer.load_state_dict(earlier.state_dict())
    assert "lora-pro" in caplog.text
    optimizer.step()
    assert optimizer.state[pair.b]["exp_avg"].shape == g.shape


ADAM: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8}


def regression_error(optimizer_of: Any, seed: int) -> float:
    """Return the squared error of W + 2 B A after 300 steps on outputs of W + D, where D has twice the rank of B A."""
    chance = torch.Generator().manual_seed(seed)
    weight = torch.randn(24, 32, generator=chance) / 32**0.5
    change = torch.randn(24, 8, generator=chance) @ torch.randn(8, 32, generator=chance) * 0.7 / (8 * 32) ** 0.5
    inputs = torch.randn(256, 32, generator=chance)
    outputs = inputs @ (weight + change).T
    a = torch.nn.Parameter((2 * torch.rand(4, 32, generator=chance) - 1) / 32**0.5)
    b = torch.nn.Parameter(torch.zeros(24, 4))
    optimizer = optimizer_of([a, b], FactorPair(a, b, 2.0))
    for _ in range(300):
        optimizer.zero_grad()
        loss = (inputs @ (weight + 2.0 * b @ a).T - outputs).square().mean()
        backward(loss)
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lora_pro_learns_a_regression_as_well_as_lora(seed: int) -> None:
    """Adam on adjusted gradients, without the equivalent gradient, rescales what was adjusted and learns less."""
    lora = regression_error(lambda weights, pair: ExactAdamW(weights, lr=2e-3, **ADAM), seed)
    ours = regression_error(
        lambda weights, pair: EquivalentGradientAdamW(weights, pairs=[pair], damping=1e-8, lr=2e-3, **ADAM), seed
    )
    adjusted_only = regression_error(
        lambda weights, pair: FactorAdamW(weights, pairs=[pair], adjust=lora_pro_adjustment(1e-8), lr=2e-3, **ADAM),
        seed,
    )
    assert 0.08 < lora < 0.11
    assert ours < 1.02 * lora
    assert adjusted_only > 1.5 * lora


def test_lora_fa_comes_as_near_as_a_frozen_factor_lets_it() -> None:
    pair, g, da, db = a_pair()
    a = pair.a.detach()
    _, gb = lora_fa_adjustment(1e-12)(pair, da, db)
    assert torch.allclose(2.0 * gb @ a, g @ onto(a), atol=1e-9)


def test_lora_fa_freezes_the_first_factor() -> None:
    model = lora_model()
    optimizer = LoraFa().build(model, lr=0.1, weight_decay=0.0)
    held = [weight for group in optimizer.param_groups for weight in group["params"]]
    for pair in find_factor_pairs(model):
        assert not pair.a.requires_grad
        assert any(pair.b is weight for weight in held)
        assert not any(pair.a is weight for weight in held)


def test_pairs_carry_the_scale_of_their_layer() -> None:
    found = find_factor_pairs(lora_model())
    assert len(found) == 4
    assert {pair.scale for pair in found} == {2.0}
    assert {(tuple(pair.a.shape), tuple(pair.b.shape)) for pair in found} == {((4, 64), (64, 4)), ((4, 64), (32, 4))}


@pytest.mark.parametrize("spec", [LoraPro(), LoraFa(), Riemannian()])
def test_without_pairs_they_say_what_to_do(spec: Any) -> None:
    with raises(UsageError, "lora_A", "lora_B"):
        spec.build(tiny_model(), lr=0.1, weight_decay=0.0)


def test_lora_plus_gives_factors_the_rates_that_peft_does_and_leaves_vectors_alone() -> None:
    from peft.optimizers import create_loraplus_optimizer

    model = lora_model(dora=True)
    ours = LoraPlus(ratio=8.0).build(model, lr=0.1, weight_decay=0.01)
    pefts = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=0.1, loraplus_lr_ratio=8.0, loraplus_weight_decay=0.01
    )
    first, second = (
        {weight: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for weight in group["params"]}
        for optimizer in (ours, pefts)
    )
    assert first.keys() == second.keys()
    assert {weight for weight in first if first[weight] != second[weight]} == {w for w in first if w.ndim < 2}
    assert {first[weight] for weight in first if weight.ndim < 2} == {(0.1, 0.0)}
    assert {first[weight] for weight in first if weight.ndim == 2} == {(0.1, 0.01), (0.8, 0.01)}


def test_riemannian_preconditions_each_factor_by_the_other() -> None:
    """Next to torch's AdamW on gradients that are preconditioned by hand."""
    ours, other = lora_model(), lora_model()
    other.load_state_dict(ours.state_dict())
    optimizer = Riemannian(reg=0.1).build(ours, lr=0.01, weight_decay=0.0)
    second = torch.optim.AdamW([w for w in other.parameters() if w.requires_grad], lr=0.01, weight_decay=0.0)
    for step in range(2):
        for model in (ours, other):
            model.zero_grad()
            backward(tiny_loss(model, tiny_ids(step)))
        optimizer.step()
        for pair in find_factor_pairs(other):
            a, b, eye = pair.a.detach().clone(), pair.b.detach().clone(), torch.eye(4)
            pair.a.grad = torch.linalg.solve(b.T @ b + 0.1 * eye, pair.a.grad)
            assert pair.b.grad is not None
            pair.b.grad = torch.linalg.solve(a @ a.T + 0.1 * eye, pair.b.grad.T).T
        second.step()
    for mine, theirs in zip(find_factor_pairs(ours), find_factor_pairs(other), strict=True):
        assert torch.allclose(mine.a, theirs.a, atol=1e-4)
        assert torch.allclose(mine.b, theirs.b, atol=1e-4)
