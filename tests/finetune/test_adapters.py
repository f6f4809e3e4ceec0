"""Each method's own formulas, against a second implementation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import numpy as np  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from rerank.errors import BackendError, DataError, MissingPrerequisiteError, MissingResourceError, UsageError  # noqa: E402
from rerank.finetune.adapters import Dora, Full, LinearTargets, Lora, Qlora, Rslora  # noqa: E402
from rerank.finetune.component_registry import ADAPTERS  # noqa: E402
from rerank.finetune.extra.adapters import (  # noqa: E402
    INTEGERS,
    Adalora,
    Lift,
    Loldu,
    LoraGa,
    LoraSb,
    LoraXs,
    LrQat,
    Pissa,
    Salt,
    Shadow,
)
from rerank.finetune.inspection.checkpoints import open_inspected_model  # noqa: E402
from rerank.finetune.inspection.merging import average_adapter_cores  # noqa: E402
from rerank.finetune.kernels.factor_starts import gradient_start_factors, mean_loss_gradients  # noqa: E402
from rerank.finetune.kernels.fake_quantisation import quantisation_steps, round_straight_through  # noqa: E402
from rerank.finetune.recipe import Recipe  # noqa: E402
from rerank.judges.attention.heads import HeadList  # noqa: E402
from rerank.models.adapters import HEADS, AdapterSettings  # noqa: E402
from rerank.selector import build_from_selector  # noqa: E402
from tests.finetune.stepping import backward  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_ids, tiny_logits, tiny_loss, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own

DOWN = "model.layers.1.mlp.down_proj"
KEYS = "model.layers.0.self_attn.k_proj"


def attached(adapter: Any, batches: int = 2) -> Any:
    return adapter.attach(tiny_model(), TinyBatches(batches), seed=5)


def weight(name: str) -> Any:
    """(rows, columns) a weight of the untouched model."""
    return tiny_model().get_submodule(name).weight.detach().double().numpy()


def layer(model: Any, name: str) -> Any:
    return model.get_submodule(f"base_model.model.{name}")


def added(model: Any, name: str) -> Any:
    """(rows, columns) what an adapter adds to a weight."""
    return layer(model, name).get_delta_weight("default").detach().to_dense().double().numpy()


def decomposed(matrix: Any) -> tuple[Any, Any, Any]:
    found: tuple[Any, Any, Any] = np.linalg.svd(matrix, full_matrices=False)
    return found


def train(
    model: Any, steps: int = 3, optimizer: Any = None, lr: float = 1e-2, seeds: Sequence[int] = (9, 9, 9)
) -> list[float]:
    """Train on one batch per step, of the seeds in turn; return the losses."""
    model.train()
    made = (optimizer or torch.optim.AdamW)([one for one in model.parameters() if one.requires_grad], lr=lr)
    losses = []
    for step in range(steps):
        losses.append(backward(tiny_loss(model, tiny_ids(seeds[step % len(seeds)]))))
        made.step()
        made.zero_grad()
    model.eval()
    return losses


def disturb(model: Any) -> None:
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.add_(torch.randn(one.shape, generator=chance) * 0.1)


def bits_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return config


# Gradients under the training's own loss


def test_gradients_are_those_of_the_mean_loss_and_leave_nothing() -> None:
    model = tiny_model()
    found = mean_loss_gradients(model, [DOWN, KEYS], TinyBatches(2))
    assert all(one.requires_grad and one.grad is None for one in model.parameters())
    ((tiny_loss(model, tiny_ids(1)) + tiny_loss(model, tiny_ids(2))) / 2).backward()  # type: ignore[no-untyped-call]
    for name, gradient in found.items():
        assert torch.allclose(gradient, model.get_submodule(name).weight.grad, atol=1e-7)


def test_gradients_that_cannot_be() -> None:
    class Nothing(TinyBatches):
        def backward(self, model: Any, lists: int | None = None) -> None:
            """No loss at all."""

    with raises(BackendError, KEYS):
        mean_loss_gradients(tiny_model(), [KEYS], Nothing())
    broken = tiny_model()
    torch.nn.init.constant_(broken.lm_head.weight, float("nan"))
    with raises(BackendError, KEYS):
        mean_loss_gradients(broken, [KEYS], TinyBatches())
    packed = tiny_model()
    packed.get_submodule(KEYS).weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    with raises(UsageError, KEYS, "uint8"):
        mean_loss_gradients(packed, [KEYS], TinyBatches())


# Starts that move the base model


def test_pissa_begins_with_the_largest_directions() -> None:
    model = attached(Pissa(r=4))
    u, s, v = decomposed(weight(DOWN))
    assert np.allclose(added(model, DOWN), (u[:, :4] * s[:4]) @ v[:4], atol=1e-5)
    left = layer(model, DOWN).base_layer.weight.detach().numpy()
    assert np.allclose(left, (u[:, 4:] * s[4:]) @ v[4:], atol=1e-5)


def test_pissa_by_power_iterations_is_near() -> None:
    exact, fast = (added(attached(Pissa(r=4, niter=niter)), DOWN) for niter in (0, 16))
    assert not np.array_equal(exact, fast)
    assert 0.97 * np.linalg.norm(exact) < np.linalg.norm(fast) < np.linalg.norm(exact)


@pytest.mark.filterwarnings("ignore:.*(was active|changes the base weights).*")  # peft loads the start beside it
@pytest.mark.parametrize("adapter", [Pissa(r=4), LoraGa(r=4)], ids=["pissa", "lora-ga"])
def test_what_is_saved_is_what_peft_converts(adapter: Any, tmp_path: Path) -> None:
    """peft's own conversion needs the beginning as a file; ours has it in buffers."""
    model = attached(adapter)
    config, start = model.peft_config["default"], tmp_path / "start"
    begins, config.init_lora_weights = config.init_lora_weights, True  # as peft asks for it
    model.save_pretrained(start)
    config.init_lora_weights = begins
    train(model)
    (tmp_path / "ours").mkdir()
    adapter.save(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "peft", path_initial_model_for_weight_conversion=str(start))
    ours, theirs = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "peft"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert [bits_of(tmp_path / who)["r"] for who in ("ours", "peft")] == [8, 8]
    assert bits_of(tmp_path / "ours")["lora_alpha"] == bits_of(tmp_path / "peft")["lora_alpha"]


def test_a_lora_ga_that_peft_saves_is_lost(tmp_path: Path) -> None:
    """The trap that `save` is there for: peft's own file does not know that the base model moved."""
    model = attached(LoraGa(r=4))
    train(model)
    wanted = tiny_logits(model)
    (tmp_path / "ours").mkdir()
    LoraGa(r=4).save(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "peft")
    ours, theirs = (
        float((tiny_logits(peft.PeftModel.from_pretrained(tiny_model(), tmp_path / who)) - wanted).abs().max())
        for who in ("ours", "peft")
    )
    assert ours < 1e-5
    assert theirs > 1e-2


def test_lora_ga_begins_along_the_gradient() -> None:
    """A0 = k V[:r]' and B0 = k U[:, r:2r] with k = rows^(1/4) / sqrt(gamma); the base moves by -s B0 A0."""
    model = attached(LoraGa(r=4, gamma=16))
    u, _, v = decomposed(mean_loss_gradients(tiny_model(), [DOWN], TinyBatches())[DOWN].double().numpy())
    a = layer(model, DOWN).lora_A["default"].weight.detach().numpy()
    b = layer(model, DOWN).lora_B["default"].weight.detach().numpy()
    scale = 64**0.25 / 4
    assert np.allclose(np.abs(a), scale * np.abs(v[:4]), atol=0.02 * scale)
    assert np.allclose(np.abs(b), scale * np.abs(u[:, 4:8]), atol=0.02 * scale)
    base = layer(model, DOWN).base_layer.weight.detach().numpy()
    assert np.allclose(base, weight(DOWN) - added(model, DOWN), atol=1e-6)


def test_lora_ga_does_not_depend_on_the_size_of_the_gradient() -> None:
    gradient = torch.randn(24, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    once = gradient_start_factors(gradient, 4, 16)
    torch.manual_seed(0)
    larger = gradient_start_factors(1000 * gradient, 4, 16)
    for factor, other in zip(once, larger, strict=True):
        assert torch.allclose(factor, other, atol=1e-4)
        assert factor.norm() == pytest.approx(4**0.5 * 24**0.25 / 4, rel=1e-5)


# Training between fixed bases


@pytest.mark.parametrize("eta", [1e-3, 1e-5])
def test_lora_sb_begins_with_the_best_product_for_the_first_step(eta: float) -> None:
    """By default, the step is as large as the first step of the training, from the gradient of 50 lists."""
    model = LoraSb(r=4).attach(tiny_model(), TinyBatches(first_lr=eta), seed=0)
    found = mean_loss_gradients(tiny_model(), [DOWN, KEYS], TinyBatches(), lists=50)
    for name, gradient in found.items():
        u, s, v = decomposed(-eta * np.sign(gradient.double().numpy()))
        assert np.allclose(added(model, name), (u[:, :4] * s[:4]) @ v[:4], atol=1e-3 * eta)


def test_lora_sb_begins_downhill() -> None:
    def loss(model: Any) -> float:
        with torch.no_grad():
            return sum(tiny_loss(model, tiny_ids(seed)).item() for seed in (1, 2))

    losses = [loss(attached(LoraSb(r=8, eta=eta, samples=2))) for eta in (1e-9, 1e-4, 1e-3)]
    assert losses[0] > losses[1] > losses[2]


def test_lora_xs_moves_within_the_largest_directions() -> None:
    model = attached(LoraXs(r=4))
    disturb(model)
    u, s, v = decomposed(weight(DOWN))
    learnt = layer(model, DOWN).lora_A["default"].core.detach().double().numpy()
    assert np.allclose(added(model, DOWN), (u[:, :4] * s[:4]) @ learnt @ v[:4], atol=1e-5)


def test_loldu_replaces_pivots() -> None:
    """W = P L D U, and the first pivots of D are what training makes of them."""
    import scipy.linalg

    model = attached(Loldu(r=5))
    lower, upper = scipy.linalg.lu(weight(DOWN), permute_l=True)
    pivots = np.diag(upper)
    assert np.allclose((lower * pivots) @ (upper / pivots[:, None]), weight(DOWN))
    disturb(model)
    learnt = layer(model, DOWN).lora_A["default"].core.detach().double().numpy()
    new = np.concatenate([learnt, pivots[5:]])
    assert np.allclose(weight(DOWN) + added(model, DOWN), (lower * new) @ (upper / pivots[:, None]), atol=1e-4)


def test_loldu_trains_all_pivots_where_there_are_fewer(tmp_path: Path) -> None:
    """Queries have 64, keys 32: the default of 256 is more than either."""
    adapter = Loldu()
    model = attached(adapter)
    assert len(layer(model, KEYS).lora_A["default"].core) == 32
    assert sum(one.numel() for one in model.parameters() if one.requires_grad) == adapter.count_trainable(
        adapter.shapes(tiny_model())
    )
    assert adapter.count_trainable([(64, 64), (32, 64), (512, 300)]) == 64 + 32 + 256
    disturb(model)
    adapter.save(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert torch.allclose(tiny_logits(loaded), tiny_logits(model), atol=1e-4)


def test_loldu_of_a_matrix_that_has_no_more_pivots() -> None:
    down: Any
    down, up = Loldu(r=3).factor_modules(torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.0, 0.0, 0.0]]))
    assert all(torch.isfinite(part.weight).all() for part in (down, up))
    assert down.start.tolist() == [2.0, 0.0, 0.0]
    assert not down.weight.any()


def test_salt_is_what_its_formula_says() -> None:
    model = attached(Salt(r=5, d=2))
    assert not added(model, DOWN).any()
    disturb(model)
    down, up = layer(model, DOWN).lora_A["default"], layer(model, DOWN).lora_B["default"]
    gain, shift, x, y = (one.detach().double().numpy() for one in (down.gain, down.shift, up.mix, down.mix))
    u, s, v = decomposed(weight(DOWN))
    wanted = u[:, :5] @ np.diag(gain * s[:5] + shift) @ v[:5] + u[:, 5:] @ (np.diag(s[5:]) + x @ y) @ v[5:]
    assert np.allclose(weight(DOWN) + added(model, DOWN), wanted, atol=1e-4)


@pytest.mark.parametrize(
    "adapter", [LoraXs(r=4), LoraSb(r=4), Loldu(r=4), Salt(r=4, d=2)], ids=lambda one: str(one)[:8]
)
def test_bases_are_fixed_and_passes_agree_with_weights(adapter: Any) -> None:
    """The pass takes x through the parts; merging and saving take the factors' weights. They are the same map."""
    model = attached(adapter)
    model.base_model.set_adapter("default")  # turns gradients on for all that is peft's
    asks = {name.rpartition(".")[2] for name, one in model.named_parameters() if one.requires_grad}
    assert asks <= {"core", "gain", "shift", "mix"}
    disturb(model)
    one = layer(model, DOWN)
    inputs = torch.randn(3, 128)
    through = one(inputs) - one.base_layer(inputs)
    assert torch.allclose(through, inputs @ one.get_delta_weight("default").T, atol=1e-4)


# Others


def test_lift_chooses_what_is_large_in_the_approximation() -> None:
    model = attached(Lift(r=4, filter_rank=8))
    u, s, v = decomposed(weight(DOWN))
    size = np.abs((u[:, :8] * s[:8]) @ v[:8])
    chosen = layer(model, DOWN).shira_indices["default"].numpy()
    assert chosen.shape == (2, 4 * (64 + 128))
    mask = np.zeros_like(size, dtype=bool)
    mask[tuple(chosen)] = True
    assert mask.sum() == 4 * (64 + 128)
    assert size[mask].min() >= size[~mask].max() - 1e-7
    assert not np.array_equal(mask, np.abs(weight(DOWN)) >= np.sort(np.abs(weight(DOWN)), axis=None)[-768])
    train(model)
    assert ((added(model, DOWN) != 0) == mask).all()


def test_randlora_reaches_full_rank_and_saves_no_random_matrices(tmp_path: Path) -> None:
    adapter = ADAPTERS.get("randlora")(r=8)
    model = attached(adapter)
    train(model, steps=5)
    assert np.linalg.matrix_rank(added(model, KEYS), tol=1e-7) == 32
    adapter.save(model, tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < 1.5 * 4 * adapter.count_trainable(adapter.shapes(tiny_model()))


def outside(model: Any, before: Any) -> float:
    """The largest part of a change of U that lies along the directions that are kept, over the change's size."""
    u, _, _ = decomposed(weight(DOWN))
    now = layer(model, DOWN).osf_svd_params["default"]["U_low"].detach().double().numpy()
    change = now - before
    return float(np.abs(u[:, : u.shape[1] // 2].T @ change).max() / np.abs(change).max())


@pytest.mark.parametrize(("optimizer", "stays"), [("SGD", True), ("AdamW", False)])
def test_osf_keeps_large_directions_under_plain_descent(optimizer: str, stays: bool) -> None:
    """Its gradients are orthogonal to them; steps that are taken entry by entry are not, as its card says."""
    model = attached(ADAPTERS.get("osf")())
    before = layer(model, DOWN).osf_svd_params["default"]["U_low"].detach().double().numpy().copy()
    train(model, optimizer=getattr(torch.optim, optimizer))
    assert (outside(model, before) < 1e-3) == stays


def test_the_shadow_corrects_the_input_of_a_layer() -> None:
    model = attached(Shadow(r=4, alpha=0.5))
    disturb(model)
    one = layer(model, "model.layers.0")
    down, up = (part["default"].weight for part in (one.shadow_down, one.shadow_up))
    hidden, shadow = torch.randn(2, 1, 3, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        one.shadow_inject(hidden, shadow, "default"), hidden + 0.5 * (hidden - shadow) @ down.T @ up.T, atol=1e-5
    )


def test_the_shadow_after_the_last_layer_does_not_train() -> None:
    model = attached(Shadow(r=4))
    last = layer(model, "model.layers.1")
    assert not any(one.requires_grad for one in last.shadow_update_gate.parameters())
    assert all(one.requires_grad for one in last.shadow_up.parameters())
    assert all(one.requires_grad for one in layer(model, "model.layers.0").shadow_update_gate.parameters())


def test_adalora_moves_ranks_while_transformers_trains(tmp_path: Path) -> None:
    adapter = Adalora(r=2, init_r=4, delta_t=2, tinit=0.1, tfinal=0.2)
    model = attached(adapter)
    rows = [{"input_ids": tiny_ids(seed, rows=1)[0], "labels": tiny_ids(seed, rows=1)[0]} for seed in range(40)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=20,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    transformers.Trainer(model, arguments, train_dataset=rows, callbacks=adapter.callbacks(model)).train()
    model.eval()
    ranks = [int((one != 0).sum()) for name, one in model.named_parameters() if ".lora_E." in name]
    assert sum(ranks) <= 2 * len(ranks)
    assert len(set(ranks)) > 1
    saved = tmp_path / "saved"
    saved.mkdir()
    adapter.save(model, saved)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), saved)
    assert torch.allclose(tiny_logits(loaded), tiny_logits(model), atol=1e-5)


def test_adalora_has_the_penalty_that_peft_adds_to_a_loss_on_labels() -> None:
    adapter = Adalora(r=4, orthogonality=0.25)
    model = attached(adapter)
    model.peft_config["default"].orth_reg_weight = 0.25
    ids = tiny_ids()

    def penalty() -> float:
        return float(adapter.penalty(model).detach())

    with_penalty = model(input_ids=ids, labels=ids).loss
    without = model.get_base_model()(input_ids=ids, labels=ids).loss
    assert penalty() == pytest.approx((with_penalty - without).item(), rel=1e-4)
    # Equation 4 without squares: factors with orthonormal columns and rows have no penalty, and zeros have sqrt(r).
    for name, weight in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.orthogonal_(weight)
    assert penalty() < 1e-5
    for name, weight in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.zeros_(weight)
    assert penalty() == pytest.approx(0.25 * 6**0.5)


def test_what_cannot_be_merged() -> None:
    with pytest.raises(NotImplementedError):
        attached(Shadow(r=4)).merge_and_unload()


def test_qlora_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with raises(MissingPrerequisiteError, "qlora", "CUDA", "GPU"):
        attached(Qlora())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("rerank.finetune.adapters.find_spec", lambda name: None)
    with raises(MissingPrerequisiteError, "pip install bitsandbytes"):
        attached(Qlora())


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("q_proj", {"q_proj"}),
        ("q_proj,mlp.up_proj", {"q_proj", "up_proj"}),
        (("q_proj", "mlp.up_proj"), {"q_proj", "up_proj"}),
        (r".*\.(gate|up)_proj", {"gate_proj", "up_proj"}),
    ],
)
def test_targets(targets: str | tuple[str, ...], wanted: set[str]) -> None:
    names = LinearTargets(targets=targets).module_names(tiny_model())
    assert {name.rpartition(".")[2] for name in names} == wanted
    assert len(names) == 2 * len(wanted)
    assert names == [name for name, _ in tiny_model().named_modules() if name in names], "in the model's order"
    assert attached(Lora(targets=targets)).targeted_module_names == names, "peft adapts the same"


def test_a_regular_expression_is_for_the_full_name() -> None:
    assert LinearTargets(targets=r"model\.layers\.1\..*k_proj").module_names(tiny_model()) == [
        "model.layers.1.self_attn.k_proj"
    ]


def test_the_first_of_many_layers() -> None:
    names = LinearTargets(layers=2, targets="attention").module_names(tiny_model(layers=12))
    assert {name.split(".")[2] for name in names} == {"0", "1"}


def test_no_such_module() -> None:
    with raises(UsageError, "query", "down_proj"):
        LinearTargets(targets="query").module_names(tiny_model())


def pattern(**ranks: int) -> dict[str, int]:
    names = LinearTargets(targets="attention", layers=1).module_names(tiny_model())
    return {name: ranks[name.rpartition(".")[2][0]] for name in names}


@pytest.mark.parametrize("kind", [Lora, Rslora, Pissa, LoraGa])
def test_a_pattern_of_ranks(kind: Any, tmp_path: Path) -> None:
    """Each matrix has its rank, none has another factor, and one of rank 0 is left alone."""
    ranks = pattern(q=6, k=1, v=0, o=3)
    adapter = kind(r=4, alpha=8, targets="attention", layers=1, rank_pattern=ranks)
    model = attached(adapter)
    found = {name.removeprefix("base_model.model."): one for name, one in model.named_modules() if hasattr(one, "r")}
    assert {name: one.r["default"] for name, one in found.items()} == {n: rank for n, rank in ranks.items() if rank}
    factor = 8 / 2 if kind is Rslora else 8 / 4
    assert [one.scaling["default"] for one in found.values()] == pytest.approx([factor] * 3)
    assert adapter.count_trainable(adapter.shapes(tiny_model())) == sum(
        one.numel() for one in model.parameters() if one.requires_grad
    )
    train(model)
    adapter.save(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert torch.allclose(tiny_logits(loaded), tiny_logits(model), atol=1e-5)
    saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["lora_alpha"] / (saved["r"] ** 0.5 if kind is Rslora else saved["r"]) == pytest.approx(factor)


def test_a_pattern_that_does_not_fit() -> None:
    with raises(UsageError, "1 modules", "model.layers.0.self_attn.v_proj"):
        attached(Lora(targets="q_proj,v_proj", layers=1, rank_pattern={"model.layers.0.self_attn.q_proj": 2}))
    with raises(UsageError, "0"):
        attached(Lora(targets="attention", layers=1, rank_pattern=pattern(q=0, k=0, v=0, o=0)))
    with raises(UsageError, "rank_pattern[x]", "-1"):
        Lora(rank_pattern={"x": -1})


@pytest.mark.parametrize(
    ("adapter", "named"),
    [
        (Pissa(r=33), ("r = 33", "model.layers.0.self_attn.k_proj", "32 x 64")),
        (LoraGa(r=17), ("2 r = 34", "model.layers.0.self_attn.k_proj")),
        (LoraXs(r=33), ("r = 33", "at most 32")),
        (Lift(r=32), ("r=32", "3072", "k_proj", "2048")),
        (ADAPTERS.get("oft")(block=48), ("'oft'", "oft_block_size", "48")),
        (ADAPTERS.get("osf")(keep=0.01), ("'osf'", "effective_rank", "0")),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else type(value).__name__,
)
def test_options_that_do_not_fit_the_model(adapter: Any, named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        attached(adapter)


class Unasked(TinyBatches):
    """Batches that nobody may look at."""

    def backward(self, model: Any, lists: int | None = None) -> None:
        """Not to be called."""
        raise AssertionError("a basis that is given needs no gradients")


def trained(adapter: LoraSb, folder: Path, *, seed: int, batches: Any = None) -> Any:
    """An adapter after three steps on its own data, saved as `rerank train` saves it; the model that was trained."""
    model = adapter.attach(tiny_model(), batches or TinyBatches(seed=seed), seed=seed)
    train(model, seeds=[100 * seed + step for step in range(3)])
    folder.mkdir()
    adapter.save(model, folder)
    AdapterSettings(model=str(folder.parent / "base"), method="fullrank").write(folder)
    return model


@pytest.fixture
def basis(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "base")
    trained(LoraSb(r=4), tmp_path / "basis", seed=1)
    return tmp_path / "basis"


def average(*adapters: Path) -> int:
    return average_adapter_cores([open_inspected_model(str(one)) for one in adapters], adapters[0].parent / "mean")


def cores(model: Any) -> dict[str, Any]:
    return {name: one.detach() for name, one in model.named_parameters() if name.endswith(".core")}


def test_it_begins_as_the_basis_ended(basis: Path, tmp_path: Path) -> None:
    model = LoraSb(r=4, basis=str(basis)).attach(tiny_model(), Unasked(), seed=9)
    wanted = tiny_logits(peft.PeftModel.from_pretrained(tiny_model(), basis))
    assert torch.allclose(tiny_logits(model), wanted, atol=1e-5)
    down = layer(model, DOWN).lora_A["default"]
    assert torch.allclose(down.basis @ down.basis.T, torch.eye(4), atol=1e-5)
    trains = {name: one.numel() for name, one in model.named_parameters() if one.requires_grad}
    assert sum(trains.values()) == LoraSb(r=4).count_trainable(LoraSb(r=4).shapes(tiny_model()))
    again = LoraSb(r=4, basis=str(basis)).attach(tiny_model(), Unasked(), seed=2)
    assert all(torch.equal(one, cores(again)[name]) for name, one in cores(model).items())


def test_shards_of_one_basis_have_an_exact_mean(basis: Path, tmp_path: Path) -> None:
    """The mean of the products is the product with the mean of the cores R."""
    adapter = LoraSb(r=4, basis=str(basis))
    models = [trained(adapter, tmp_path / f"shard{n}", seed=n, batches=Unasked()) for n in (2, 3)]
    folders = [tmp_path / f"shard{n}" for n in (2, 3)]
    assert average(*folders) == 14
    means = {name: (one + cores(models[1])[name]) / 2 for name, one in cores(models[0]).items()}
    core = f"base_model.model.{DOWN}.lora_A.default.core"
    assert not torch.allclose(means[core], cores(models[0])[core])
    models[0].load_state_dict(means, strict=False)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "mean")
    assert torch.allclose(tiny_logits(loaded), tiny_logits(models[0]), atol=1e-5)
    further = LoraSb(r=4, basis=str(tmp_path / "mean")).attach(tiny_model(), Unasked(), seed=0)
    assert torch.allclose(tiny_logits(further), tiny_logits(loaded), atol=1e-5)


def test_without_one_basis_shards_have_none(basis: Path, tmp_path: Path) -> None:
    trained(LoraSb(r=4), tmp_path / "other", seed=2)
    with raises(DataError, "basis"):
        average(basis, tmp_path / "other")


def test_matrices_that_the_basis_left_alone(tmp_path: Path) -> None:
    """A core of 0 gives no directions; any will do, and the start is the same."""

    class Above(TinyBatches):
        def backward(self, model: Any, lists: int | None = None) -> None:
            """A loss that sees only the first layer."""
            model.model.layers[0](
                torch.ones(1, 3, 64), position_embeddings=(torch.ones(1, 3, 16),) * 2
            ).sum().backward()

    adapter = LoraSb(r=4)
    model = adapter.attach(tiny_model(), Above(), seed=0)
    assert not layer(model, DOWN).get_delta_weight("default").any()
    adapter.save(model, tmp_path)
    again = LoraSb(r=4, basis=str(tmp_path)).attach(tiny_model(), Unasked(), seed=0)
    assert torch.allclose(tiny_logits(again), tiny_logits(model), atol=1e-6)


def test_what_is_no_basis(basis: Path, tmp_path: Path) -> None:
    def attached(**options: Any) -> Any:
        return LoraSb(**{"r": 4, "basis": str(basis), **options}).attach(tiny_model(), Unasked(), seed=0)

    with raises(UsageError, "rank 4", "r = 8"):
        attached(r=8)
    with raises(UsageError, "7 modules", "model.layers.1.mlp.down_proj"):
        attached(layers=1)
    plain = Lora(r=4).attach(tiny_model(), Unasked(), seed=0)
    (tmp_path / "plain").mkdir()
    Lora(r=4).save(plain, tmp_path / "plain")
    with raises(DataError, tmp_path / "plain"):
        attached(basis=str(tmp_path / "plain"))


def test_a_recipe_with_a_basis_is_looked_at_before_anything_is_loaded(basis: Path, tmp_path: Path) -> None:
    def check(model: str, folder: Path) -> None:
        recipe = Recipe.make(
            {"model": model, "data": {"lists": ["a"]}, "adapter": {"name": "lora-sb", "basis": str(folder)}}
        )
        LoraSb(basis=str(folder)).check_recipe(recipe)

    check(str(tmp_path / "base"), basis)
    with raises(MissingResourceError, tmp_path / "none"):
        check(str(tmp_path / "base"), tmp_path / "none")
    with raises(UsageError, "base'", "smollm2-135m"):
        check("smollm2-135m", basis)


# Heads that shards have learnt


def heads(folder: Path, weights: dict[tuple[int, int], float], power: float, **more: Any) -> None:
    order = sorted(weights, key=lambda head: -weights[head])
    model = {"model": "base", "weights": "abc", "adapter": "beside"}
    HeadList(
        heads=tuple(order),
        weights=tuple(weights[head] for head in order),
        length_power=power,
        **{"model": model, "method": "trained", **more},
    ).write(folder / HEADS)


def shards(basis: Path, tmp_path: Path) -> list[Path]:
    for n in (2, 3):
        trained(LoraSb(r=4, basis=str(basis)), tmp_path / f"shard{n}", seed=n, batches=Unasked())
    return [tmp_path / "shard2", tmp_path / "shard3"]


def test_learnt_heads_are_averaged(basis: Path, tmp_path: Path) -> None:
    one, other = shards(basis, tmp_path)
    heads(one, {(1, 0): 0.7, (1, 2): 0.2, (0, 1): 0.1}, -0.4)
    heads(other, {(0, 1): 0.7, (1, 0): 0.3, (1, 2): 0.0}, 0.2)
    average(one, other)
    found = json.loads((tmp_path / "mean" / HEADS).read_text())
    assert found["heads"] == [[1, 0], [0, 1], [1, 2]]
    assert found["weights"] == pytest.approx([0.5, 0.4, 0.1])
    assert found["length_power"] == pytest.approx(-0.1)
    assert found["model"] == {"model": "base", "weights": "abc", "adapter": "beside"}


def test_other_heads_are_not_averaged(basis: Path, tmp_path: Path) -> None:
    one, other = shards(basis, tmp_path)
    heads(one, {(1, 0): 0.7, (1, 2): 0.3}, 0.0)
    for given in ({(1, 0): 1.0}, {(1, 0): 0.7, (1, 3): 0.3}):
        heads(other, given, 0.0)
        with raises(DataError, "heads"):
            average(one, other)
    heads(other, {(1, 0): 0.7, (1, 2): 0.3}, 0.0, model={"model": "base", "weights": "xyz", "adapter": "beside"})
    with raises(DataError, "heads"):
        average(one, other)
    (other / HEADS).unlink()
    with pytest.raises(MissingResourceError):
        average(one, other)
    assert not (tmp_path / "mean").exists()


def test_the_grid_by_hand() -> None:
    """Two bits and a sign: whole numbers to 3; a step for each pair of columns; zeros have the step 1."""
    weight = torch.tensor([[6.0, -3.0, 0.3, 0.1], [0.0, 0.0, -9.0, 0.5]])
    assert torch.allclose(quantisation_steps(weight, 3, 2), torch.tensor([[2.0, 0.1], [1.0, 3.0]]))
    assert torch.allclose(quantisation_steps(weight, 3, 4), torch.tensor([[2.0], [3.0]]))


def test_the_gradient_passes_through_the_rounding() -> None:
    values = torch.tensor([0.4, 1.6], requires_grad=True)
    rounded = round_straight_through(values)
    assert rounded.tolist() == [0.0, 2.0]
    (rounded * torch.tensor([3.0, 5.0])).sum().backward()
    assert values.grad.tolist() == [3.0, 5.0]


@pytest.mark.parametrize("group", [None, 32])
def test_it_begins_with_rounding_to_nearest(group: int | None) -> None:
    model = attached(LrQat(r=4, bits=4, group=group))
    weight = tiny_model().get_submodule(DOWN).weight.detach()
    blocks = weight.reshape(64, -1, group or 128)
    step = blocks.abs().amax(-1, keepdim=True) / 7
    wanted = ((blocks / step).round() * step).reshape(64, 128)
    assert torch.allclose(layer(model, DOWN).quantised(), wanted, atol=1e-6)


def test_factors_get_the_gradient_of_the_weight_in_steps() -> None:
    """Nothing lies outside the grid at the start, so d loss / d B = scaling s (d loss / d W) A'."""
    model = attached(LrQat(r=4, bits=8))
    one = layer(model, DOWN)
    inputs, outputs = torch.randn(5, 128), torch.randn(5, 64)
    (one(inputs) * outputs).sum().backward()
    wanted = (outputs.T @ inputs * one.step) @ one.lora_A["default"].weight.T * one.scaling["default"]
    assert torch.allclose(one.lora_B["default"].weight.grad, wanted, rtol=1e-3, atol=1e-4)


def test_it_learns_what_rounding_lost() -> None:
    losses = train(attached(LrQat(r=4, bits=2)), steps=12, lr=5e-2)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(("bits", "group"), [(4, None), (3, 32), (8, None)])
def test_what_is_saved_lies_on_the_grid(bits: int, group: int | None, tmp_path: Path) -> None:
    adapter = LrQat(r=4, bits=bits, group=group)
    model = attached(adapter)
    train(model, lr=5e-2)
    adapter.save(model, tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.allclose(tiny_logits(loaded), tiny_logits(model), atol=1e-5)
    whole = load_file(tmp_path / INTEGERS)
    names = adapter.module_names(tiny_model())
    assert set(whole) == {f"{name}.{part}" for name in names for part in ("weight", "step")}
    for name in names:
        numbers, step = whole[f"{name}.weight"], whole[f"{name}.step"]
        assert numbers.dtype == torch.int8
        assert -(2 ** (bits - 1)) <= int(numbers.min()) <= int(numbers.max()) <= 2 ** (bits - 1) - 1
        wanted = numbers.float() * step.repeat_interleave(numbers.shape[1] // step.shape[1], dim=1)
        assert torch.equal(loaded.get_submodule(name).weight, wanted)
    start = attached(adapter)
    assert any(not torch.equal(layer(start, name).integers(), whole[f"{name}.weight"].float()) for name in names)


def test_tied_embeddings_are_saved_once(tmp_path: Path) -> None:
    adapter = LrQat(r=4)
    model = adapter.attach(tiny_model(tie_word_embeddings=True), TinyBatches(), seed=5)
    train(model, lr=5e-2)
    adapter.save(model, tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.allclose(tiny_logits(loaded), tiny_logits(model), atol=1e-5)


def test_merging_is_exact_and_final() -> None:
    model = attached(LrQat(r=4))
    train(model, lr=5e-2)
    wanted = layer(model, DOWN).quantised().detach()
    model.merge_adapter()
    assert torch.equal(layer(model, DOWN).base_layer.weight, wanted)
    with pytest.raises(UsageError):
        model.unmerge_adapter()


def test_groups_that_do_not_fit() -> None:
    with raises(UsageError, "group=48", "64 columns", "model.layers.0.self_attn.q_proj"):
        attached(LrQat(r=4, group=48))


# The counts of these names for configurations of peft are peft's.
LOKR, OFT, OSF, RANDLORA, VERA = map(ADAPTERS.get, ("lokr", "oft", "osf", "randlora", "vera"))
Shapes = list[tuple[int, int]]


def layers(count: int, hidden: int, inner: int, heads: int) -> Shapes:
    """Return the shapes of the matrices of N layers of a Llama; ``heads`` is the size of keys and values."""
    return [
        *((hidden, hidden), (heads, hidden), (heads, hidden), (hidden, hidden)),
        *((inner, hidden), (inner, hidden), (hidden, inner)),
    ] * count


LARGE = layers(28, 3584, 18944, 512)  # of a model of 7.6 billion parameters
SMALL = layers(4, 128, 256, 64)


def test_the_large_model_has_the_weights_of_one() -> None:
    assert sum(rows * columns for rows, columns in LARGE) == pytest.approx(6.53e9, rel=1e-3)


@pytest.mark.parametrize(
    ("adapter", "millions"),
    [
        (Lora(r=16), 40.37),
        (Rslora(r=16), 40.37),
        (Pissa(r=16), 40.37),
        (LoraGa(r=16), 40.37),
        (Qlora(r=16), 40.37),
        (LrQat(r=16), 40.37),
        (Lora(r=64), 161.5),
        (Dora(r=16), 41.76),
        (RANDLORA(r=32), 57.2),
        (LoraSb(r=64), 0.803),
        (LoraSb(r=32), 0.201),
        (LoraXs(r=64), 0.803),
        (Loldu(r=256), 0.050),
        (Lift(r=64), 161.5),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.r}" if hasattr(value, "r") else "",
)
def test_a_model_of_seven_billion(adapter: Any, millions: float) -> None:
    assert adapter.count_trainable(LARGE) / 1e6 == pytest.approx(millions, rel=5e-3)


@pytest.mark.parametrize(
    ("adapter", "numbers"),
    [
        (Lora(r=8), 65_536),
        (Dora(r=8), 69_632),
        (RANDLORA(r=32), 14_336),
        (RANDLORA(r=8), 48_128),
        (LoraXs(r=16), 7_168),
        (OSF(keep=0.5), 476_672),
        (Lift(r=4), 32_768),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_counts_that_were_seen_in_peft(adapter: Any, numbers: int) -> None:
    assert adapter.count_trainable(SMALL) == numbers


def test_by_hand() -> None:
    one = [(6, 4)]
    assert Full().count_trainable([(6, 4), (1, 6)]) == 30
    assert Adalora(r=2, init_r=3).count_trainable(one) == 3 * (6 + 4 + 1)
    assert VERA(r=5).count_trainable(one) == 6 + 5
    assert OFT(block=2).count_trainable(one) == 2 * 1  # two blocks of 2 x 2, with one angle each
    assert Salt(r=1, d=2).count_trainable(one) == 2 * 1 + 2 * (2 * 3)  # three singular values are left
    assert LOKR(r=8).count_trainable(one) == 2 * 2 + 3 * 2  # 6 = 2 x 3, 4 = 2 x 2
    assert LOKR(r=1).count_trainable([(64, 64)]) == 8 * 8 + 1 * (8 + 8)
    assert VERA(r=64).count_trainable([(128, 128)] * 8) == 1_536


def test_a_shadow_by_hand() -> None:
    hidden, inner, heads, r = 4, 6, 2, 3
    network = 2 * 4 * 4 + 2 * 2 * 4 + 3 * 6 * 4 + 2 * 4 + 4  # a layer, its norms, the last norm
    correction = 2 * 4 * 3
    move = 2 * (4 * 3 + 3 + 3 * 4 + 4)
    assert Shadow(r=r).count_trainable(layers(5, hidden, inner, heads)) == network + 5 * correction + 4 * move


def test_a_pattern_of_ranks_counts_in_its_order() -> None:
    adapter = Lora(r=2, rank_pattern={"a": 3, "b": 0, "c": 1})
    assert adapter.count_trainable([(6, 4), (10, 10)]) == 3 * 10 + 1 * 20
    with raises(UsageError, "2", "1"):
        adapter.count_trainable([(6, 4)])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lora,r=0", ("r", "0", "1")),
        ("lora,alpha=0", ("alpha", "0", "1")),
        ("lora,dropout=1", ("dropout", "1.0")),
        ("lora,layers=0", ("layers", "0", "1")),
        ("adalora,init_r=3", ("init_r", "3", "16")),
        ("lora-ga,gamma=0", ("gamma", "0")),
        ("adalora,orthogonality=-1", ("orthogonality", "-1")),
        ("adalora,tinit=0.5,tfinal=0.5", ("tinit=0.5", "tfinal=0.5")),
        ("osf,keep=1", ("keep", "1.0")),
        ("lr-qat,bits=1", ("bits", "1", "at least 2 and at most 8")),
        ("lora-sb,eta=0", ("eta", "0.0")),
        ("oft,block=1", ("block", "1", "2")),
        ("shadow,depth=0", ("depth", "0", "1")),
        ("salt,d=0", ("d", "0", "1")),
        ("qlora,init=gptq", ("gptq", "lora, loftq")),
        ("lora,rank_pattern=x", ("rank_pattern",)),
    ],
)
def test_options_out_of_range_are_refused(text: str, named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        build_from_selector(ADAPTERS, text)


def test_adapters_are_built_from_selectors() -> None:
    assert build_from_selector(ADAPTERS, "lora") == Lora()
    assert build_from_selector(ADAPTERS, "lora,r=8,targets=attention,layers=4") == Lora(
        r=8, targets="attention", layers=4
    )
    assert build_from_selector(ADAPTERS, "lora-xs,targets=q_proj,v_proj,r=8").targets == "q_proj,v_proj"
    assert build_from_selector(ADAPTERS, "lora-ga,gamma=64").gamma == 64


def test_adapters_with_callbacks() -> None:
    acts = [name for name in ADAPTERS.names() if hasattr(ADAPTERS.get(name), "callbacks")]
    assert acts == ["adalora"]
