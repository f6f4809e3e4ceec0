"""Optimizers of training: memory, AdamW, groups, SaRA, options, and all under a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy.fft import dct

pytest.importorskip("transformers")
pytest.importorskip("peft")
torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from transformers.training_args import OptimizerNames  # noqa: E402

from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError  # noqa: E402
from rerank.finetune.component_registry import OPTIMIZERS, make_training_components  # noqa: E402
from rerank.finetune.components import Optimizer  # noqa: E402
from rerank.finetune.extra.optimizers import Dct, Fira, Gradnormlorp, LoraFa, LoraPro, NaturalGalore, Riemannian, Sara  # noqa: E402
from rerank.finetune.kernels.adamw import ExactAdamW, make_parameter_groups, projectable_matrices  # noqa: E402
from rerank.finetune.kernels.adamw_variants import (  # noqa: E402  # noqa: E402
    EquivalentGradientAdamW,
    FactorPair,
    dct_columns,
    find_factor_pairs,
    lora_fa_gradient,
    lora_pro_gradients,
    precondition_by_fisher,
)
from rerank.finetune.optimizers import (  # noqa: E402
    Adamw,
    Apollo,
    Galore,
    LoraPlus,
    TransformersOptimizer,
    find_transformers_optimizer,
)
from rerank.finetune.recipe import Recipe  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from tests.finetune.small import recipe  # noqa: E402
from tests.finetune.stepping import (  # noqa: E402
    LinearModel,
    backward,
    gradients,
    lora_model,
    run_steps,
    same_weights,
    trainable_shapes,
    trainer,
)
from tests.finetune.tiny import tiny_ids, tiny_loss, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

#: The matrices of a model of 7B: hidden 3584, between 18944, keys and values 512, 28 layers.
SEVEN_B = [(3584, 3584), (512, 3584), (512, 3584), (3584, 3584), *[(18944, 3584)] * 2, (3584, 18944)] * 28


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (Galore(rank=128), 0.044),
        (Galore(rank=512), 0.177),
        (Galore(rank=1024), 0.338),
        (Dct(rank=128), 0.039),
        (Dct(rank=512), 0.156),
        (Dct(rank=1024), 0.297),
        (NaturalGalore(rank=128), 0.435),
        (NaturalGalore(rank=512), 1.74),
        (NaturalGalore(rank=1024), 3.31),
        (Sara(share=0.1), 0.15),
    ],
)
def test_memory_beside_adamw_in_a_model_of_seven_billion(spec: Any, expected: float) -> None:
    assert spec.count_state(SEVEN_B) / Adamw().count_state(SEVEN_B) == pytest.approx(
        expected, abs=0.005 * max(1, expected)
    )


def test_fira_and_apollo_keep_one_and_two_numbers_a_matrix_more() -> None:
    assert Fira(rank=512).count_state(SEVEN_B) == Galore(rank=512).count_state(SEVEN_B) + len(SEVEN_B)
    short = {sides: 2 * max(sides) * 256 + 2 for sides in SEVEN_B}
    assert Apollo().count_state(SEVEN_B) == sum(short[sides] for sides in SEVEN_B)


def test_galore_saves_two_thirds_at_the_rank_of_the_abstract() -> None:
    assert 1 - Galore(rank=1024).count_state(SEVEN_B) / Adamw().count_state(SEVEN_B) == pytest.approx(0.66, abs=0.005)


def test_what_is_no_matrix_keeps_two_moments() -> None:
    assert Galore(rank=4).count_state([(1, 50)]) == 100
    assert Dct(rank=4).count_state([(1, 50), (8, 6)]) == 100 + 4 * (2 * 8 + 1)


def test_gradnorm_keeps_little_of_what_adamw_keeps_of_factors() -> None:
    model = lora_model(dora=True, targets=("q_proj", "k_proj", "v_proj", "o_proj"), r=16)
    factors = [shape for shape in trainable_shapes(model) if min(shape) > 1]
    ratio = Gradnormlorp().count_state(factors) / Adamw().count_state(factors)
    assert ratio == pytest.approx(0.286, abs=0.005)


def test_gradnorm_is_galore_on_the_factors_of_dora_alone() -> None:
    made: list[Optimizer] = [Gradnormlorp(), Galore(factors=True, rank=4)]
    ours, galore = (one.build(lora_model(dora=True, r=16), lr=1e-3, weight_decay=0.0) for one in made)
    for name in ("basis", "rest", "tensorwise", "history", "damping", "seed", "rank", "gap", "scale"):
        assert getattr(ours.rule, name) == getattr(galore.rule, name)
    with raises(UsageError, "gradnormlorp", "dora"):
        Gradnormlorp().build(lora_model(), lr=1e-3, weight_decay=0.0)
    least = {"data": {"lists": ["a"]}, "optimizer": {"name": "gradnormlorp"}}
    Gradnormlorp().check_recipe(Recipe.make({**least, "adapter": {"name": "dora"}}))
    with raises(UsageError, "'gradnormlorp'", "'lora'"):
        Gradnormlorp().check_recipe(Recipe.make(least))


def test_adamw_is_torchs_to_the_bit() -> None:
    grads = gradients(6)
    weights, _ = run_steps(Adamw(beta1=0.8, beta2=0.99, eps=1e-6), grads, weight_decay=0.1)
    model = LinearModel()
    other = torch.optim.AdamW([model.map.weight], lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.1)
    for grad, weight in zip(grads, weights[1:], strict=True):
        model.map.weight.grad = grad.clone()
        other.step()
        assert torch.equal(model.map.weight, weight)


def test_narrow_weights_are_stepped_wide_and_rounded_once() -> None:
    """Next to torch on float32 copies that are rounded after every step."""
    grads = [grad.to(torch.bfloat16) for grad in gradients(5)]
    weight = torch.nn.Parameter(LinearModel().map.weight.detach().to(torch.bfloat16))
    copy = torch.nn.Parameter(weight.detach().float())
    ours = ExactAdamW([weight], lr=0.05, weight_decay=0.1)
    torchs = torch.optim.AdamW([copy], lr=0.05, weight_decay=0.1)
    for grad in grads:
        weight.grad, copy.grad = grad.clone(), grad.float()
        ours.step()
        torchs.step()
        copy.data = copy.data.to(torch.bfloat16).float()
        assert torch.equal(weight.float(), copy)


def test_torch_alone_would_round_the_moments_that_it_loads() -> None:
    """Why `load_state_dict` is ours; if this fails, torch has changed and ours can go."""
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    kept = {"step": torch.tensor(1.0), "exp_avg": torch.tensor([0.1] * 3), "exp_avg_sq": torch.tensor([0.1] * 3)}
    for kind, expected in ((torch.optim.AdamW, torch.bfloat16), (ExactAdamW, torch.float32)):
        optimizer = kind([weight], lr=0.1)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: kept}})
        assert optimizer.state[weight]["exp_avg"].dtype == expected


def test_a_closure_is_run_and_its_loss_comes_back() -> None:
    for spec in (Adamw(), Galore(rank=2), Sara()):
        model = LinearModel()
        optimizer = spec.build(model, lr=1e-3, weight_decay=0.0)

        def closure(model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = model.map.weight.square().sum()
            backward(loss)
            return loss

        first = optimizer.step(closure)
        assert optimizer.step(closure) < first


def test_tables_and_vectors_are_no_matrices_and_a_tied_head_is_a_table() -> None:
    for tied, expected in ((False, 2 * 7 + 1), (True, 2 * 7)):
        model = tiny_model(tie_word_embeddings=tied)
        assert len(projectable_matrices(model)) == expected
        shapes = trainable_shapes(model)
        assert shapes.count((1, 256 * 64)) == 1
        assert shapes.count((256, 64)) == (0 if tied else 1)
        assert sum(rows * columns for rows, columns in shapes) == sum(weight.numel() for weight in model.parameters())


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(UsageError):
        make_parameter_groups(tiny_model().requires_grad_(False), 0.1)


def test_sara_moves_the_smallest_entries_alone_and_as_adamw_would() -> None:
    grads = gradients(3)
    weights, _ = run_steps(Sara(share=0.25), grads, weight_decay=0.1)
    whole, _ = run_steps(Adamw(), grads, weight_decay=0.1)
    start = weights[0].abs().flatten().sort().values
    small = weights[0].abs() <= start[13]  # 14 of 54: a quarter, rounded up
    assert int(small.sum()) == 14
    assert torch.equal(weights[-1][~small], weights[0][~small])
    assert torch.equal(weights[-1][small], whole[-1][small])


def test_sara_stops_entries_that_have_grown_past_the_others() -> None:
    grads = [torch.full((9, 6), -1.0, dtype=torch.float64)] * 4
    weights, state = run_steps(Sara(share=0.5, refine=2), grads, lr=0.3)
    bound = weights[0].abs().flatten().sort().values[27]
    moved = weights[1] != weights[0]
    keep = moved & (weights[2].abs() < bound)
    assert 0 < int(keep.sum()) < int(moved.sum()) == 27
    assert torch.equal(weights[3] != weights[2], keep)
    assert len(state["entries"]) == len(state["exp_avg"]) == int(keep.sum())


def test_sara_of_everything_is_adamw_and_has_nothing_to_stop_at() -> None:
    grads = gradients(4)
    ours, adamw = run_steps(Sara(share=1.0, refine=2), grads)[0], run_steps(Adamw(), grads)[0]
    assert all(map(torch.equal, ours, adamw))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Adamw, {"beta1": 1.0}),
        (Adamw, {"beta2": -0.1}),
        (Adamw, {"eps": 0.0}),
        (Galore, {"rank": 0}),
        (Dct, {"gap": 0}),
        (Fira, {"scale": 0.0}),
        (NaturalGalore, {"history": 0}),
        (NaturalGalore, {"damping": 0.0}),
        (Sara, {"share": 0.0}),
        (Sara, {"share": 1.1}),
        (Sara, {"refine": -1}),
        (LoraPlus, {"ratio": 0.0}),
        (LoraPro, {"damping": 0.0}),
        (LoraFa, {"damping": -1.0}),
        (Riemannian, {"reg": 0.0}),
    ],
)
def test_options_that_make_no_sense_are_refused(kind: Any, options: dict[str, float]) -> None:
    ((name, value),) = options.items()
    with raises(UsageError, name, value):
        kind(**options)


def test_galore_fits_factors_only_when_asked_to() -> None:
    assert Galore().fits == {"full"}
    assert "factors=true" in Galore().reason
    assert Galore(factors=True).fits == {"lora"}
    kinds: list[Optimizer] = [Adamw(), Galore(), LoraPro(), Sara()]
    assert [len(kind.fits) for kind in kinds] == [3, 1, 1, 1]


def resumed_training(spec: Any, make_model: Any, folder: Path) -> Any:
    """A training that goes on from the middle of another, after checking that both end with the same bits."""
    whole = trainer(make_model(), spec, folder / "whole")
    whole.train()
    resumed = trainer(make_model(), spec, folder / "resumed")
    resumed.train(resume_from_checkpoint=str(folder / "whole" / "checkpoint-3"))
    assert same_weights(whole.model, resumed.model)
    assert not same_weights(whole.model, make_model())
    return resumed


def seeded_lora_model() -> Any:
    torch.manual_seed(0)
    return lora_model(dora=True)


@pytest.mark.parametrize(
    "spec", [Adamw(), Fira(rank=4, gap=2), Dct(rank=4, gap=2), Apollo(rank=4, gap=2), Sara(), LoraPro(), Riemannian()]
)
def test_a_trainer_resumes_to_the_bit(spec: Any, tmp_path: Path) -> None:
    resumed = resumed_training(spec, tiny_model if "full" in spec.fits else seeded_lora_model, tmp_path)
    assert {float(state["step"]) for state in resumed.optimizer.state.values()} == {6.0}
    # The schedule is a cosine to 0, which the optimizer's own rates follow.
    assert all(group["lr"] == pytest.approx(0.0, abs=1e-9) for group in resumed.optimizer.param_groups)


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


def a_pair(m: int = 12, n: int = 10, r: int = 3) -> tuple[FactorPair, Any, Any, Any]:
    """Return a factor pair in float64, a gradient g of its matrix, and the resulting gradients dA and dB."""
    g, a, b = gradients(3, m, n)
    a, b = a[:r], b[:, :r].contiguous()
    kept_a, kept_b = (torch.nn.Parameter(factor, requires_grad=False) for factor in (a, b))
    pair = FactorPair(kept_a, kept_b, 2.0)
    return pair, g, 2.0 * b.T @ g, 2.0 * g @ a.T


def onto(rows: Any) -> Any:
    return rows.T @ torch.linalg.inv(rows @ rows.T) @ rows


def test_lora_pro_comes_as_near_to_the_gradient_as_factors_can() -> None:
    pair, g, da, db = a_pair()
    a, b = pair.a.detach(), pair.b.detach()
    ga, gb = lora_pro_gradients(pair, da, db, 1e-12)
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
    ga, gb = lora_pro_gradients(pair, da, db, 1e-12)

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
    ga, gb = lora_pro_gradients(pair, torch.zeros(3, 10, dtype=torch.float64), db, 1e-8)
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

    def adjusted(weights: Any, pair: FactorPair) -> Any:
        class Adjusted(ExactAdamW):
            def adjusted_gradients(self) -> Any:
                found = lora_pro_gradients(pair, pair.a.grad, pair.b.grad, 1e-8)  # type: ignore[arg-type]
                return dict(zip(weights, found, strict=True))

        return Adjusted(weights, lr=2e-3, **ADAM)

    adjusted_only = regression_error(adjusted, seed)
    assert 0.08 < lora < 0.11
    assert ours < 1.02 * lora
    assert adjusted_only > 1.5 * lora


def test_lora_fa_comes_as_near_as_a_frozen_factor_lets_it() -> None:
    pair, g, _, db = a_pair()
    a = pair.a.detach()
    gb = lora_fa_gradient(pair, db, 1e-12)
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


#: Optimizers that need neither a GPU nor a further package, some with options of their classes.
RUNNABLE: dict[str, dict[str, Any]] = {
    "adamw_torch": {"betas": (0.9, 0.95)},
    "adamw_torch_fused": {},
    "adafactor": {},
    "sgd": {"momentum": 0.9, "nesterov": True},
    "adagrad": {},
    "rmsprop": {"centered": True},
}
REFUSED = {"galore": "apollo", "apollo": "galore", "lomo": "galore", "layerwise": "galore", "grokadamw": "adamw"}


def make_optimizer(table: dict[str, Any], **tables: Any) -> Any:
    made = Recipe.make({"data": {"lists": ["x"]}, "optimizer": table, **tables})
    return make_training_components(made).optimizer


@pytest.mark.parametrize("name", [str(member.value) for member in OptimizerNames])
def test_every_name_of_transformers_runs_or_says_why_it_does_not(name: str) -> None:
    if replacements := [own for part, own in REFUSED.items() if part in name]:
        with raises(UsageError, *replacements):
            make_optimizer({"name": name})
        return
    optimizer = make_optimizer({"name": name})
    if name in RUNNABLE:
        optimizer.check_machine()
        assert isinstance(optimizer.build(tiny_model(), lr=1e-3, weight_decay=0.1), torch.optim.Optimizer)
    else:
        with raises(MissingPrerequisiteError, name):
            optimizer.check_machine()


def test_a_missing_package_is_reported_before_the_model_is_looked_for(tmp_path: Path) -> None:
    asked = Recipe.make({"model": "absent/model", "data": {"lists": ["x"]}, "optimizer": {"name": "adamw_bnb_8bit"}})
    with raises(MissingPrerequisiteError, "bitsandbytes"):
        train_adapter(asked, tmp_path, device="cpu")


def test_no_name_is_taken_twice_and_an_unknown_one_lists_both_kinds() -> None:
    assert not {str(member.value) for member in OptimizerNames} & set(OPTIMIZERS.names())
    with raises(UnknownNameError, "adafactor", "lora-plus") as raised:
        make_optimizer({"name": "adafacto"})
    assert "adafactor" in raised.value.suggestions
    assert make_optimizer({"name": "adamw-torch"}) == TransformersOptimizer(name="adamw_torch")


@pytest.mark.parametrize(
    ("table", "kind", "named"),
    [
        ({"name": "sgd", "momentun": 0.9}, UnknownNameError, "momentum"),
        ({"name": "sgd", "momentum": -1}, UsageError, "-1"),
        ({"name": "adafactor", "beta1": True, "relative_step": True}, UsageError, "relative_step"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(table: dict[str, Any], kind: Any, named: str) -> None:
    with raises(kind, named):
        make_optimizer(table)


def test_state_that_exists_before_the_first_step_cannot_be_dropped() -> None:
    with raises(UsageError, "layer sampling"):
        make_optimizer({"name": "adagrad"}, layers={"name": "lisa"}, adapter={"name": "full"})
    make_optimizer({"name": "adafactor"}, layers={"name": "lisa"}, adapter={"name": "full"})


@pytest.mark.parametrize("name", RUNNABLE)
def test_vectors_do_not_decay(name: str) -> None:
    groups = find_transformers_optimizer(name, RUNNABLE[name], own=[]).build(
        lora_model(dora=True), lr=1e-3, weight_decay=0.1
    )
    for group in groups.param_groups:
        assert {weight.ndim < 2 for weight in group["params"]} == {group["weight_decay"] == 0.0}
        assert group["lr"] == 1e-3


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_trainer_resumes_to_the_bit_with_an_optimizer_of_transformers(name: str, tmp_path: Path) -> None:
    resumed_training(find_transformers_optimizer(name, RUNNABLE[name], own=[]), seeded_lora_model, tmp_path)


def test_adamw_torch_trains_what_adamw_trains(model: Path, collection: Path, tmp_path: Path) -> None:
    for name in ("adamw", "adamw_torch"):
        train_adapter(recipe(model, collection, optimizer={"name": name, "lr": 1e-3}), tmp_path / name, device="cpu")
    ours, theirs = (tmp_path / name / "adapter_model.safetensors" for name in ("adamw", "adamw_torch"))
    assert ours.read_bytes() == theirs.read_bytes()
