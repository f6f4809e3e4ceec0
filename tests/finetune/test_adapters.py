"""Each method's own formulas, against a second implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from rerank.errors import BackendError, MissingPrerequisiteError, UsageError  # noqa: E402
from rerank.finetune.adapters import Qlora  # noqa: E402
from rerank.finetune.component_registry import ADAPTERS  # noqa: E402
from rerank.finetune.extra.adapters import Adalora, Lift, Loldu, LoraGa, LoraSb, LoraXs, Pissa, Salt, Shadow  # noqa: E402
from rerank.finetune.kernels.factor_starts import gradient_start_factors, mean_loss_gradients  # noqa: E402
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


def train(model: Any, steps: int = 3, optimizer: Any = None, lr: float = 1e-2) -> None:
    model.train()
    made = (optimizer or torch.optim.AdamW)([one for one in model.parameters() if one.requires_grad], lr=lr)
    for _ in range(steps):
        tiny_loss(model, tiny_ids(9)).backward()  # type: ignore[no-untyped-call]
        made.step()
        made.zero_grad()
    model.eval()


def disturb(model: Any) -> None:
    """Give all that trains values of its own."""
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
