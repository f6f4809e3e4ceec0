"""Sampling of layers: what is drawn, what trains, what the optimizer keeps, and training that is resumed."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import numpy as np  # noqa: E402

from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.component_registry import RANKS  # noqa: E402
from rerank.finetune.components import CallbackPart  # noqa: E402
from rerank.finetune.extra.callbacks import Refactor  # noqa: E402
from rerank.finetune.extra.layers import Lisa, Owlore  # noqa: E402
from rerank.finetune.extra.optimizers import LoraPro  # noqa: E402
from rerank.finetune.extra.ranks import Contribution, Welore, allocate_proportionally  # noqa: E402
from rerank.finetune.inspection.report import common_threshold  # noqa: E402
from rerank.finetune.kernels.adamw_variants import find_factor_pairs  # noqa: E402
from rerank.finetune.kernels.step_callbacks import balance_factors, draw_layers, find_layers, outlier_shares  # noqa: E402
from rerank.finetune.optimizers import Adamw, Galore  # noqa: E402
from tests.finetune.stepping import backward, gradients, lora_model, same_weights, trainable_shapes, trainer  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_ids, tiny_logits, tiny_loss, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402


class Watch(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Which layers had a gradient in each step, and how many numbers the optimizer kept after it."""

    def __init__(self) -> None:
        self.layers: list[list[int]] = []
        self.rest: list[bool] = []
        self.kept: list[int] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        model = given["model"].model
        self.layers.append([at for at, one in enumerate(model.layers) if one.mlp.up_proj.weight.grad is not None])
        self.rest.append(model.embed_tokens.weight.grad is not None)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        states = given["optimizer"].state.values()
        self.kept.append(sum(v.numel() for one in states for key, v in one.items() if key != "step"))


def run(folder: Path, spec: Any, optimizer: Any = None, resume: Path | None = None) -> tuple[Any, Watch]:
    model, watch = tiny_model(layers=4), Watch()
    callbacks = [spec.callback(model, TinyBatches(), seed=5), watch]
    training = trainer(model, optimizer or Adamw(), folder, callbacks=callbacks, max_steps=8, save_steps=1)
    training.train(resume_from_checkpoint=str(resume) if resume else None)
    return training, watch


def test_a_draw_depends_on_seed_and_interval_alone() -> None:
    odds = [1.0] * 8
    first = [draw_layers(odds, 2, 3, interval) for interval in range(20)]
    assert first == [draw_layers(odds, 2, 3, interval) for interval in range(20)]
    assert first != [draw_layers(odds, 2, 4, interval) for interval in range(20)]
    assert all(len(set(drawn)) == 2 and drawn == sorted(drawn) for drawn in first)
    assert {at for drawn in first for at in drawn} == set(range(8))


def test_layers_are_drawn_as_often_as_their_odds_say() -> None:
    counts = Counter(draw_layers([1.0, 2.0, 3.0, 4.0], 1, 0, interval)[0] for interval in range(4000))
    assert [counts[at] / 4000 for at in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.03)


def test_odds_of_nothing_are_drawn_only_where_others_are_too_few() -> None:
    assert all(draw_layers([0.0, 1.0, 0.0], 1, 0, interval) == [1] for interval in range(50))
    assert {tuple(draw_layers([0.0, 1.0, 0.0], 2, 0, interval)) for interval in range(50)} == {(0, 1), (1, 2)}
    assert {tuple(draw_layers([0.0] * 3, 1, 0, interval)) for interval in range(50)} == {(0,), (1,), (2,)}


def test_layers_are_the_largest_list_of_modules() -> None:
    model = tiny_model(layers=3)
    assert find_layers(model) is model.model.layers
    with warnings.catch_warnings():
        # peft asks transformers for a name that transformers is about to drop.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted = peft.get_peft_model(model, peft.OSFConfig(effective_rank=32, target_modules=["q_proj", "up_proj"]))
    assert find_layers(adapted) is model.model.layers
    experts = torch.nn.ModuleList([torch.nn.ModuleList([torch.nn.Linear(2, 2) for _ in range(5)]) for _ in range(2)])
    assert find_layers(torch.nn.Sequential(experts)) is experts


def test_what_cannot_be_drawn_is_refused() -> None:
    with raises(UsageError, "n is 5", "2"):
        Lisa(n=5).callback(tiny_model(), TinyBatches(), seed=0)
    with raises(UsageError, "Linear"):
        Lisa().callback(torch.nn.Linear(2, 2), TinyBatches(), seed=0)
    with raises(UsageError, "n", "0"):
        Lisa(n=0)
    with raises(UsageError, "every", "0"):
        Lisa(every=0)
    with raises(UsageError, "over", "0.0"):
        Owlore(over=0.0)


def test_some_layers_train_at_a_time_and_the_optimizer_keeps_only_these(tmp_path: Path) -> None:
    spec = Lisa(n=2, every=2)
    training, watch = run(tmp_path, spec)
    expected = [draw_layers([1.0] * 4, 2, 5, step // 2) for step in range(8)]
    assert watch.layers == expected
    assert {at for drawn in expected for at in drawn} == {0, 1, 2, 3}
    assert all(watch.rest)
    model = training.model
    layers = Adamw().count_state(trainable_shapes(model.model.layers[0])) * 2
    rest = 2 * sum(weight.numel() for name, weight in model.named_parameters() if ".layers." not in name)
    assert watch.kept == [layers + rest] * 8
    assert all(weight.requires_grad for weight in model.parameters())


def test_the_rest_can_be_left_out(tmp_path: Path) -> None:
    training, watch = run(tmp_path, Lisa(n=1, every=3, train_rest=False))
    assert not any(watch.rest)
    assert watch.kept == [Adamw().count_state(trainable_shapes(training.model.model.layers[0]))] * 8
    before, after = tiny_model(layers=4), training.model
    assert torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)
    assert torch.equal(before.lm_head.weight, after.lm_head.weight)
    drawn = {at for layers in watch.layers for at in layers}
    for at in range(4):
        same = torch.equal(before.model.layers[at].mlp.up_proj.weight, after.model.layers[at].mlp.up_proj.weight)
        assert same == (at not in drawn)


def test_layers_that_are_frozen_again_lose_their_gradients_at_once() -> None:
    model = tiny_model(layers=4)
    callback = Lisa(n=1, every=1).callback(model, TinyBatches(), seed=5)
    optimizer = Adamw().build(model, lr=1e-3, weight_decay=0.0)
    backward(tiny_loss(model, tiny_ids()))
    callback.on_train_begin(None, transformers.TrainerState(global_step=0), None, optimizer=optimizer)
    (active,) = callback.active(0)
    for at, layer in enumerate(model.model.layers):
        assert all((weight.grad is None) == (at != active) for weight in layer.parameters())


def test_parameters_that_were_frozen_before_stay_so(tmp_path: Path) -> None:
    model, watch = tiny_model(layers=4), Watch()
    for layer in model.model.layers:
        layer.self_attn.requires_grad_(False)
    spec = Lisa(n=4, every=2)
    trainer(model, Adamw(), tmp_path, callbacks=[spec.callback(model, TinyBatches(), seed=0), watch]).train()
    assert watch.layers == [[0, 1, 2, 3]] * 6
    assert not any(weight.requires_grad for layer in model.model.layers for weight in layer.self_attn.parameters())


def test_an_optimizer_that_was_built_after_freezing_is_refused(tmp_path: Path) -> None:
    model = tiny_model(layers=4)
    callback = Lisa().callback(model, TinyBatches(), seed=0)
    model.model.layers[1].requires_grad_(False)
    with raises(UsageError, "9 parameters"):
        trainer(model, Adamw(), tmp_path, callbacks=[callback]).train()


@pytest.mark.parametrize("at", [3, 4, 5], ids=["mid-interval", "between intervals", "in the next"])
@pytest.mark.parametrize("optimizer", [Adamw(), Galore(rank=4, gap=3)], ids=["adamw", "galore"])
def test_training_that_is_resumed_is_the_same_to_the_bit(tmp_path: Path, optimizer: Any, at: int) -> None:
    spec = Lisa(n=2, every=2)
    whole, seen = run(tmp_path / "whole", spec, optimizer)
    resumed, again = run(tmp_path / "resumed", spec, optimizer, tmp_path / "whole" / f"checkpoint-{at}")
    assert again.layers == seen.layers[at:]
    assert again.kept == seen.kept[at:]
    assert same_weights(whole.model, resumed.model)
    first, second = (training.optimizer.state_dict()["state"] for training in (whole, resumed))
    assert first.keys() == second.keys()
    for index, state in first.items():
        assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(second[index][key])) for key in state)


def test_the_checkpoint_holds_no_state_of_frozen_layers(tmp_path: Path) -> None:
    run(tmp_path, Lisa(n=1, every=2))
    saved = torch.load(tmp_path / "checkpoint-5" / "optimizer.pt", weights_only=True)
    held = sum(len(group["params"]) for group in saved["param_groups"])
    assert held == 4 * 9 + 3
    assert len(saved["state"]) == 9 + 3


def test_outlier_shares_are_numpys() -> None:
    """W and X of two layers of two maps by hand, over two batches."""
    torch.manual_seed(0)
    layers = [torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 6)) for _ in range(2)]
    model = torch.nn.Sequential(*layers)
    batches = [torch.randn(2, 3, 6), torch.randn(1, 4, 6)]

    class Two(TinyBatches):
        def forward(self, model: Any, lists: int | None = None) -> None:
            with torch.no_grad():
                for batch in batches:
                    model(batch)

    found = outlier_shares(model, layers, Two(), 2.0)
    x = np.concatenate([batch.numpy().reshape(-1, 6) for batch in batches])
    expected = []
    for layer in layers:
        shares = []
        for linear in layer:
            weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
            a = np.abs(weight) * np.linalg.norm(x, axis=0)
            shares.append((a > 2.0 * a.mean()).mean())
            x = x @ weight.T + bias
        expected.append(np.mean(shares))
    assert found == pytest.approx(expected)
    assert min(found) > 0


def test_a_layer_with_more_outliers_is_drawn_more_often() -> None:
    model = tiny_model(layers=4)
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight.view(-1)[::97] = 2.0
    spec = Owlore(n=1, every=1)
    callback = spec.callback(model, TinyBatches(), seed=0)
    assert max(range(4), key=callback.odds.__getitem__) == 2
    drawn = Counter(callback.active(step)[0] for step in range(400))
    expected = [odds / sum(callback.odds) for odds in callback.odds]
    assert [drawn[at] / 400 for at in range(4)] == pytest.approx(expected, abs=0.08)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_owlore_resumes_to_the_bit_with_galore(tmp_path: Path) -> None:
    spec = Owlore(n=2, every=2, over=3.0)
    whole, seen = run(tmp_path / "whole", spec, Galore(rank=4, gap=3))
    resumed, again = run(tmp_path / "resumed", spec, Galore(rank=4, gap=3), tmp_path / "whole" / "checkpoint-3")
    assert again.layers == seen.layers[3:]
    assert same_weights(whole.model, resumed.model)


def test_layers_without_linear_maps_have_no_outliers_to_count() -> None:
    model = torch.nn.Sequential(torch.nn.ModuleList([torch.nn.Bilinear(2, 2, 2)]))

    with raises(UsageError, "layer 0"):
        Owlore(n=1).callback(model, TinyBatches(batches=0), seed=0)


def test_osf_has_outliers_too() -> None:
    """Its layers keep the linear maps that they replace, and run them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model = peft.get_peft_model(
            tiny_model(), peft.OSFConfig(effective_rank=32, target_modules=["q_proj", "up_proj"])
        )
    callback = Owlore(n=1, over=2.0).callback(model, TinyBatches(), seed=0)
    assert all(odds > 0 for odds in callback.odds)
    backward(tiny_loss(model, tiny_ids()))


@pytest.mark.parametrize(("spec", "fits"), [(Lisa(), "full"), (Owlore(), "full"), (Refactor(), "lora")])
def test_each_is_of_one_kind_of_parameters(spec: CallbackPart, fits: str) -> None:
    assert spec.fits == {fits}
    assert all((spec.reason, spec.paper, spec.summary))


class FactorWatch(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
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
    model, watch = lora_model(dora=True), FactorWatch()
    callbacks = [Refactor(every=2).callback(model, TinyBatches(), seed=0), watch]
    trainer(model, Adamw(), tmp_path, callbacks=callbacks).train()
    balanced_after = [step for step, ratio in enumerate(watch.ratios, 1) if ratio == pytest.approx(1.0, abs=1e-5)]
    assert balanced_after == [2, 4]
    # DoRA's magnitudes keep their moments; those of the factors begin anew.
    assert watch.counts == [{1.0}, {2.0}, {1.0, 3.0}, {4.0}, {1.0, 5.0}, {2.0, 6.0}]


@pytest.mark.parametrize("spec", [Adamw(), LoraPro()], ids=["adamw", "lora-pro"])
@pytest.mark.parametrize("at", [2, 3], ids=["of a step that balanced", "of another"])
def test_balanced_training_that_is_resumed_is_the_same_to_the_bit(tmp_path: Path, spec: Any, at: int) -> None:
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


def linear(**weights: Any) -> Any:
    model = torch.nn.ModuleDict()
    for name, weight in weights.items():
        model[name] = torch.nn.Linear(*reversed(weight.shape), bias=False)
        model[name].weight.data = weight
    return model


@dataclass(frozen=True)
class Pulls:
    """A loss whose gradients are given matrices."""

    gradients: dict[str, Any]
    first_lr: float = 1e-5

    def forward(self, model: Any, lists: int | None = None) -> None:
        """See `Calibrate`."""

    def backward(self, model: Any, lists: int | None = None) -> None:
        """See `Calibrate`."""
        torch.stack([(model[name].weight * one).sum() for name, one in self.gradients.items()]).sum().backward()


def turned(values: list[float], rows: int, columns: int) -> Any:
    chance = torch.Generator().manual_seed(rows)
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=chance))[0][:, : len(values)] for n in (rows, columns))
    return (u * torch.tensor(values)) @ v.T


def test_welore_adapts_matrices_of_low_rank_and_freezes_the_others() -> None:
    """Over their largest: flat 1 .9 .8 .7, steep 1 .1 .01. On average, a third of them are up to .1."""
    model = linear(flat=turned([20.0, 18, 16, 14], 6, 4), steep=turned([0.5, 0.05, 0.005], 3, 5))
    assert Welore(reduction=1 / 3).pattern(model, ["flat", "steep"], 2, TinyBatches()) == {"flat": 0, "steep": 2}


def test_welore_adapts_at_least_one_matrix() -> None:
    """All values of a rotation are equal, and of a matrix with one row none can be dropped."""
    model = linear(a=torch.eye(4), b=torch.eye(5), c=torch.ones(1, 4))
    assert Welore().pattern(model, ["a", "b"], 2, TinyBatches()) == {"a": 2, "b": 2}
    assert Welore().pattern(model, ["c"], 2, TinyBatches()) == {"c": 2}


def test_welore_against_bisection() -> None:
    """The paper finds its threshold by bisection until the mean reduction meets the target of one half."""
    model = tiny_model()
    targets = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name != "lm_head"]
    spectra = {name: torch.linalg.svdvals(model.get_submodule(name).weight.detach()) for name in targets}
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = {name: float((one / one[0] <= middle).float().mean()) for name, one in spectra.items()}
        low, high = (low, middle) if sum(below.values()) / len(below) >= 0.5 else (middle, high)
    below = {name: float((one / one[0] <= high).float().mean()) for name, one in spectra.items()}
    found = Welore().pattern(model, targets, 20, TinyBatches())
    assert found == {name: 20 if below[name] >= 0.5 else 0 for name in targets}
    # Random square matrices have small singular values, and flat random matrices have none.
    assert set(found.values()) == {0, 20}


def test_contribution_on_matrices_made_by_hand() -> None:
    """Squared norms 9 and 3: of 8 ranks, 6 and 2."""
    model = linear(a=torch.zeros(7, 9), b=torch.zeros(8, 8))
    pulls = Pulls({"a": torch.full((7, 9), 3 / 63**0.5), "b": torch.full((8, 8), 3**0.5 / 8)})
    assert Contribution().pattern(model, ["a", "b"], 4, pulls) == {"a": 6, "b": 2}
    assert Contribution(least=3).pattern(model, ["a", "b"], 4, pulls) == {"a": 5, "b": 3}
    assert model["a"].weight.grad is None


def test_contribution_gives_no_matrix_more_than_it_has() -> None:
    model = linear(a=torch.zeros(2, 9), b=torch.zeros(8, 8), c=torch.zeros(8, 8))
    pulls = Pulls({"a": torch.ones(2, 9), "b": torch.ones(8, 8) * 0.1, "c": torch.zeros(8, 8)})
    assert Contribution().pattern(model, ["a", "b", "c"], 3, pulls) == {"a": 2, "b": 7, "c": 0}


def test_what_takes_no_part_in_the_loss_contributes_nothing() -> None:
    model = linear(a=torch.zeros(7, 9), b=torch.zeros(8, 8), out=torch.zeros(8, 8))
    pulls = Pulls({"a": torch.full((7, 9), 3 / 63**0.5), "b": torch.full((8, 8), 3**0.5 / 8)})
    assert Contribution().pattern(model, ["a", "b", "out"], 4, pulls) == {"a": 7, "b": 5, "out": 0}
    assert Contribution(least=1).pattern(model, ["a", "b", "out"], 4, pulls) == {"a": 7, "b": 4, "out": 1}


def test_contribution_on_a_model() -> None:
    model = tiny_model()
    targets = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name != "lm_head"]
    found = Contribution().pattern(model, targets, 4, TinyBatches())
    assert list(found) == targets
    assert sum(found.values()) == 4 * len(targets)
    assert len(set(found.values())) > 2


@pytest.mark.parametrize("name", RANKS.names())
def test_every_way_keeps_the_budget_and_the_order(name: str) -> None:
    made = RANKS.get(name)()
    model = tiny_model()
    targets = [f"model.layers.{n}.self_attn.{part}_proj" for n in (1, 0) for part in ("v", "q")]
    found = made.pattern(model, targets, 3, TinyBatches())
    assert list(found) == targets
    assert all(0 <= rank <= 32 if "v_proj" in one else rank <= 64 for one, rank in found.items())
    assert 0 < sum(found.values()) <= 12
    assert made.summary
    assert made.paper
    with raises(UsageError, "0", "4 matrices"):
        made.pattern(model, targets, 0, TinyBatches())
    with raises(UsageError, "0 matrices"):
        made.pattern(model, [], 1, TinyBatches())


def test_least_is_checked() -> None:
    with raises(UsageError, "least", "-1"):
        Contribution(least=-1)
    with raises(UsageError, "least=5"):
        Contribution(least=5).pattern(tiny_model(), ["model.layers.0.mlp.up_proj"], 4, TinyBatches())


weights = st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 9)), min_size=1, max_size=8)


@given(drawn=weights, budget=st.integers(0, 60), least=st.integers(0, 2))
def test_shares(drawn: list[tuple[float, int]], budget: int, least: int) -> None:
    shares = {str(at): weight for at, (weight, _) in enumerate(drawn)}
    most = {str(at): limit for at, (_, limit) in enumerate(drawn)}
    budget = max(budget, least * len(drawn))
    found = allocate_proportionally(shares, budget, most, least=least)
    assert sum(found.values()) == min(budget, sum(most.values()))
    assert all(min(least, most[name]) <= found[name] <= most[name] for name in shares)
    free = [name for name in shares if found[name] < most[name]]
    for one in free:
        for other in free:
            assert shares[one] < shares[other] or found[one] >= found[other] - 1


spectrum = st.lists(st.floats(0, 1), max_size=6).map(lambda rest: [1.0, *sorted(rest, reverse=True)])


@given(drawn=st.lists(spectrum, min_size=1, max_size=6), mean=st.integers(1, 8))
def test_one_threshold(drawn: list[list[float]], mean: int) -> None:
    drop = sum(map(len, drawn)) - mean * len(drawn)
    threshold, found = common_threshold({str(at): one for at, one in enumerate(drawn)}, drop, lambda values: 1)
    assert len(drawn) <= sum(found.values()) <= mean * len(drawn)
    for at, one in enumerate(drawn):
        assert all(value <= threshold for value in one[found[str(at)] :])
        assert all(value > threshold for value in one[1 : found[str(at)]])
    lower = sum(value >= threshold for one in drawn for value in one)
    assert threshold < 0 or lower > mean * len(drawn), "a lower threshold would have done"
