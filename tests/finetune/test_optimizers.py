"""Optimizers of training: memory, AdamW, groups, SaRA, options, and all under a trainer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import UsageError
from rerank.finetune.components import Optimizer
from rerank.finetune.extra.optimizers import Dct, Fira, Gradnormlorp, LoraFa, LoraPro, NaturalGalore, Riemannian, Sara
from rerank.finetune.optimizers import Adamw, Apollo, Galore, LoraPlus
from rerank.finetune.recipe import Recipe

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from rerank.finetune.kernels.adamw import ExactAdamW, make_parameter_groups, projectable_matrices  # noqa: E402
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
from tests.finetune.tiny import tiny_model  # noqa: E402
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


@pytest.mark.parametrize(
    "spec", [Adamw(), Fira(rank=4, gap=2), Dct(rank=4, gap=2), Apollo(rank=4, gap=2), Sara(), LoraPro(), Riemannian()]
)
def test_a_trainer_resumes_to_the_bit(spec: Any, tmp_path: Path) -> None:
    def model() -> Any:
        torch.manual_seed(0)
        return tiny_model() if "full" in spec.fits else lora_model(dora=True)

    whole = trainer(model(), spec, tmp_path / "whole")
    whole.train()
    resumed = trainer(model(), spec, tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert same_weights(whole.model, resumed.model)
    assert not same_weights(whole.model, model())
    steps = {float(state["step"]) for state in resumed.optimizer.state.values()}
    assert steps == {6.0}
    # The schedule is a cosine to 0, which the optimizer's own rates follow.
    assert all(group["lr"] == pytest.approx(0.0, abs=1e-9) for group in resumed.optimizer.param_groups)


def test_specs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Galore().rank = 3  # type: ignore[misc]
