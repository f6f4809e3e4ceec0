"""Optimizers that keep moments in a subspace, against numpy, scipy and torch's AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.fft import dct

from rerank.finetune.extra.optimizers import Dct, Fira, NaturalGalore
from rerank.finetune.optimizers import Apollo, Galore

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from rerank.finetune.kernels.subspace_adamw import dct_columns, precondition_by_fisher  # noqa: E402
from tests.finetune.stepping import LinearModel, gradients, run_steps  # noqa: E402


def numpy_projection(grad: Any, rank: int) -> Any:
    """P (n x r) for a gradient with at least as many rows as columns."""
    return np.linalg.svd(grad.numpy())[2][:rank].T


@pytest.mark.parametrize("shape", [(9, 6), (6, 9), (6, 6)])
def test_galore_moves_along_the_sign_of_the_projection_first(shape: tuple[int, int]) -> None:
    """In its first step Adam's update is C / (|C| + eps): the side that is longer stays."""
    (grad,) = gradients(1, *shape)
    (before, after), _ = run_steps(Galore(rank=2, scale=0.5), [grad], weight_decay=0.1)
    tall = grad.T if shape[0] < shape[1] else grad
    basis = numpy_projection(tall, 2)
    low = tall.numpy() @ basis
    update = (low / (np.abs(low) + 1e-8)) @ basis.T
    update = update.T if shape[0] < shape[1] else update
    assert after.numpy() == pytest.approx(before.numpy() * (1 - 0.01 * 0.1) - 0.01 * 0.5 * update, abs=1e-9)


def test_galore_of_full_rank_is_adamw_in_turned_coordinates() -> None:
    """The second implementation: torch's AdamW on W P with gradients G P, turned back."""
    grads = gradients(7)
    weights, _ = run_steps(Galore(rank=128, scale=1.0), grads, weight_decay=0.1)
    basis = torch.linalg.svd(grads[0])[2].T
    turned = torch.nn.Parameter(LinearModel().map.weight.detach() @ basis)
    other = torch.optim.AdamW([turned], lr=0.01, weight_decay=0.1)
    for grad, weight in zip(grads, weights[1:], strict=True):
        turned.grad = grad @ basis
        other.step()
        assert torch.allclose(turned.detach() @ basis.T, weight, atol=1e-12)


def test_galore_takes_a_new_subspace_after_the_gap_and_keeps_its_moments() -> None:
    grads = gradients(5)
    _, before = run_steps(Galore(rank=2, gap=3), grads[:3])
    _, state = run_steps(Galore(rank=2, gap=3), grads[:4])
    old, new = before["basis"], state["basis"]
    assert np.abs(old.numpy()) == pytest.approx(np.abs(numpy_projection(grads[0], 2)))
    assert np.abs(new.numpy()) == pytest.approx(np.abs(numpy_projection(grads[3], 2)))
    assert float(state["step"]) == 4
    assert torch.allclose(state["exp_avg"], 0.9 * before["exp_avg"] + 0.1 * (grads[3] @ new))


def test_fira_of_full_rank_is_galore() -> None:
    ours, galore = (run_steps(kind(rank=6, gap=3, scale=1.0), gradients(5))[0] for kind in (Fira, Galore))
    assert all(torch.allclose(first, second, atol=1e-10) for first, second in zip(ours, galore, strict=True))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_fira_adds_the_rest_row_by_row_and_lets_it_grow_by_a_hundredth(scale: float) -> None:
    """The authors' formula in numpy: bias correction last, scale on both projections; gradients grow and shrink."""
    grads = [grad * factor for grad, factor in zip(gradients(5), (1.0, 10.0, 0.1, 3.0, 1.0), strict=True)]
    grads.append(grads[0])  # of which the subspace leaves little over
    weights, _ = run_steps(Fira(rank=2, scale=scale), grads)
    basis = numpy_projection(grads[0], 2)
    mean = square = np.zeros((9, 2))
    norm, limited = 0.0, []
    for step, grad in enumerate(grads, 1):
        low = grad.numpy() @ basis
        mean, square = 0.9 * mean + 0.1 * low, 0.999 * square + 0.001 * low**2
        adam = mean / np.sqrt(square)
        phi = np.linalg.norm(adam, axis=1) / np.linalg.norm(low, axis=1)
        rest = phi[:, None] * (grad.numpy() - scale * low @ basis.T)
        size = float(np.linalg.norm(rest))
        if step > 1 and size / norm > 1.01:
            rest *= 1.01 * norm / size
            limited.append(step)
        norm = float(np.linalg.norm(rest))
        rate = 0.01 * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
        moved = weights[step - 1].numpy() - rate * (scale * adam @ basis.T + rest)
        assert weights[step].numpy() == pytest.approx(moved, abs=1e-8)
    assert limited
    assert len(limited) < 5


@pytest.mark.parametrize("width", [2, 7, 64, 512])
def test_cosines_are_orthonormal_and_scipys(width: int) -> None:
    found = dct_columns(width, torch.arange(width), torch.float64)
    assert torch.allclose(found.T @ found, torch.eye(width, dtype=torch.float64), atol=1e-12)
    assert found.T.numpy() == pytest.approx(dct(np.eye(width), norm="ortho", axis=0), abs=1e-12)


def test_cosines_in_float32_are_orthonormal_at_the_width_of_a_large_model() -> None:
    columns = torch.tensor([0, 1, 1791, 3582, 3583])
    found = dct_columns(3584, columns, torch.float32).double()  # so that the sum below does not round
    assert torch.allclose(found.T @ found, torch.eye(5, dtype=torch.float64), atol=1e-7)


def test_dct_takes_the_columns_that_the_gradient_favours() -> None:
    basis = dct_columns(6, torch.arange(6), torch.float64)
    strength = torch.tensor([1.0, 9.0, 2.0, 8.0, 3.0, 4.0], dtype=torch.float64)
    (random,) = gradients(1)
    grad = torch.linalg.qr(random).Q * strength @ basis.T
    (before, after), state = run_steps(Dct(rank=3, scale=1.0), [grad])
    assert state["columns"].tolist() == [1, 3, 5]
    low = grad @ basis[:, [1, 3, 5]]
    assert torch.allclose(after, before - 0.01 * low.sign() @ basis[:, [1, 3, 5]].T, atol=1e-8)


def test_dct_lets_moments_stay_with_their_columns() -> None:
    basis = dct_columns(6, torch.arange(6), torch.float64)
    chance = torch.linalg.qr(gradients(1)[0]).Q
    first = chance * torch.tensor([9.0, 8, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64) @ basis.T
    second = chance * torch.tensor([0.1, 8, 9, 0.1, 0.1, 0.1], dtype=torch.float64) @ basis.T
    _, state = run_steps(Dct(rank=2, gap=1), [first, second])
    assert state["columns"].tolist() == [1, 2]
    expected = torch.stack([0.9 * 0.1 * (first @ basis[:, 1]), torch.zeros(9, dtype=torch.float64)], dim=1)
    assert torch.allclose(state["exp_avg"], expected + 0.1 * second @ basis[:, [1, 2]])


def test_natural_is_the_dense_inverse() -> None:
    history = torch.stack([grad.flatten() for grad in gradients(4)])
    (low,) = gradients(1, seed=5)
    dense = torch.linalg.inv(history.T @ history + 0.03 * torch.eye(54, dtype=torch.float64)) @ low.flatten()
    assert torch.allclose(precondition_by_fisher(low, history, 0.03), dense.view(9, 6), atol=1e-10)
    padded = torch.cat([history, torch.zeros(3, 54, dtype=torch.float64)])
    assert torch.allclose(precondition_by_fisher(low, padded, 0.03), dense.view(9, 6), atol=1e-10)


def test_natural_galore_looks_at_the_last_gradients_of_its_subspace() -> None:
    """At full rank nothing is lost: the second implementation sums outer products of whole gradients."""
    grads = gradients(5)
    weights, state = run_steps(NaturalGalore(rank=6, history=2, damping=0.5, gap=4, scale=1.0), grads)
    first, second = torch.linalg.svd(grads[0])[2].T, torch.linalg.svd(grads[4])[2].T
    mean = square = torch.zeros(9, 6, dtype=torch.float64)
    for step, grad in enumerate(grads, 1):
        basis = first if step <= 4 else second
        seen = [grad] if step in (1, 5) else [grads[step - 2], grad]
        fisher = sum(torch.outer(*[(one @ basis).flatten()] * 2) for one in seen)
        inverse = torch.linalg.inv(fisher + 0.5 * torch.eye(54, dtype=torch.float64))
        given = (inverse @ (grad @ basis).flatten()).view(9, 6)
        mean, square = 0.9 * mean + 0.1 * given, 0.999 * square + 0.001 * given**2
        adam = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        assert torch.allclose(weights[step], weights[step - 1] - 0.01 * adam @ basis.T, atol=1e-9)
    assert state["history"].shape == (2, 54)


def test_apollo_scales_the_gradient_row_by_row_and_limits_its_growth() -> None:
    grads = [grad * 10.0**step for step, grad in enumerate(gradients(6))]
    weights, _ = run_steps(Apollo(rank=2, scale=3.0), grads)
    updates = [(before - after) / 0.03 for before, after in zip(weights, weights[1:], strict=False)]
    for update, grad in zip(updates, grads, strict=True):
        rows = update / grad
        assert torch.allclose(rows, rows[:, :1].expand_as(rows))
        assert (rows > 0).all()
    # Adam's first update is a sign, of norm sqrt(2) in two dimensions; what it came from is G P.
    chance = torch.Generator().manual_seed(0)
    basis = torch.randn(6, 2, generator=chance, dtype=torch.float64) / 2**0.5
    expected = 2**0.5 / (grads[0] @ basis).norm(dim=1)
    assert torch.allclose((updates[0] / grads[0])[:, 0], expected, rtol=1e-6)
    # The limit applies before Adam's bias correction, as in the authors' code.
    corrections = [(1 - 0.999**step) ** 0.5 / (1 - 0.9**step) for step in range(1, 7)]
    norms = [float(update.norm()) / size for update, size in zip(updates, corrections, strict=True)]
    growth = [after / before for before, after in zip(norms, norms[1:], strict=False)]
    assert max(growth) == pytest.approx(1.01)


def test_apollo_mini_scales_all_rows_alike_and_draws_anew() -> None:
    weights, state = run_steps(Apollo(rank=1, tensorwise=True, gap=2, seed=7), gradients(5))
    for before, after, grad in zip(weights, weights[1:], gradients(5), strict=False):
        assert torch.allclose((before - after) / grad, ((before - after) / grad)[0, 0].expand(9, 6))
    assert state["seed"] == 7 + 2
    assert state["exp_avg"].shape == (9, 1)


def test_apollo_projects_matrices_of_one_shape_differently() -> None:
    model = torch.nn.ModuleList([torch.nn.Linear(6, 9), torch.nn.Linear(6, 9)])
    optimizer = Apollo(rank=2).build(model, lr=0.1, weight_decay=0.0)
    for one in model:
        one.weight.grad = gradients(1)[0].float()
    optimizer.step()
    first, second = (optimizer.state[one.weight]["exp_avg"] for one in model)
    assert not torch.allclose(first, second)


def test_an_update_of_nothing_does_not_stop_a_limited_one_for_ever() -> None:
    zero, *rest = gradients(3)
    weights, _ = run_steps(Apollo(rank=2), [zero * 0, *rest])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
