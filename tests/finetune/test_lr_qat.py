"""LR-QAT: the grid, the gradient through the rounding, and what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.extra.adapters import INTEGERS, LrQat  # noqa: E402
from rerank.finetune.kernels.fake_quantisation import quantisation_steps, round_straight_through  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_ids, tiny_logits, tiny_loss, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

DOWN = "model.layers.1.mlp.down_proj"


def attached(**options: Any) -> Any:
    return LrQat(**{"r": 4, **options}).attach(tiny_model(), TinyBatches(), seed=5)


def layer(model: Any, name: str = DOWN) -> Any:
    return model.get_submodule(f"base_model.model.{name}")


def train(model: Any, steps: int = 3) -> list[float]:
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=5e-2, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = tiny_loss(model, tiny_ids(9))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


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
    model = attached(bits=4, group=group)
    weight = tiny_model().get_submodule(DOWN).weight.detach()
    blocks = weight.reshape(64, -1, group or 128)
    step = blocks.abs().amax(-1, keepdim=True) / 7
    wanted = ((blocks / step).round() * step).reshape(64, 128)
    assert torch.allclose(layer(model).quantised(), wanted, atol=1e-6)


def test_factors_get_the_gradient_of_the_weight_in_steps() -> None:
    """Nothing lies outside the grid at the start, so d loss / d B = scaling s (d loss / d W) A'."""
    model = attached(bits=8)
    one = layer(model)
    inputs, outputs = torch.randn(5, 128), torch.randn(5, 64)
    (one(inputs) * outputs).sum().backward()
    wanted = (outputs.T @ inputs * one.step) @ one.lora_A["default"].weight.T * one.scaling["default"]
    assert torch.allclose(one.lora_B["default"].weight.grad, wanted, rtol=1e-3, atol=1e-4)


def test_it_learns_what_rounding_lost() -> None:
    losses = train(attached(bits=2), steps=12)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize(("bits", "group"), [(4, None), (3, 32), (8, None)])
def test_what_is_saved_lies_on_the_grid(bits: int, group: int | None, tmp_path: Path) -> None:
    adapter = LrQat(r=4, bits=bits, group=group)
    model = adapter.attach(tiny_model(), TinyBatches(), seed=5)
    train(model)
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
    start = adapter.attach(tiny_model(), TinyBatches(), seed=5)
    assert any(not torch.equal(layer(start, name).integers(), whole[f"{name}.weight"].float()) for name in names)


def test_tied_embeddings_are_saved_once(tmp_path: Path) -> None:
    adapter = LrQat(r=4)
    model = adapter.attach(tiny_model(tie_word_embeddings=True), TinyBatches(), seed=5)
    train(model)
    adapter.save(model, tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.allclose(tiny_logits(loaded), tiny_logits(model), atol=1e-5)


def test_merging_is_exact_and_final() -> None:
    model = attached()
    train(model)
    wanted = layer(model).quantised().detach()
    model.merge_adapter()
    assert torch.equal(layer(model).base_layer.weight, wanted)
    with pytest.raises(UsageError):
        model.unmerge_adapter()


def test_groups_that_do_not_fit() -> None:
    with raises(UsageError, "group=48", "64 columns", "model.layers.0.self_attn.q_proj"):
        attached(group=48)
