"""QLoRA, with bitsandbytes' own CPU code where it is installed. That it needs CUDA is in test_adapters.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("bitsandbytes")

from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.adapters import LinearTargets, Qlora  # noqa: E402
from rerank.finetune.kernels import factor_starts, peft_files  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_ids, tiny_logits, tiny_loss, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # bitsandbytes and peft have much to say, none of it about this
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Qlora, "check_machine", lambda self: None)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda model: model)


def packed() -> Any:
    model = tiny_model()
    factor_starts.quantise_layers(model, LinearTargets().module_names(model))
    return model


def attached(adapter: Qlora) -> Any:
    return adapter.attach(tiny_model(), TinyBatches(), seed=5)


def train(model: Any) -> None:
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(3):
        tiny_loss(model, tiny_ids(9)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("init", ["lora", "loftq"])
def test_what_is_saved_loads_on_the_packed_model(init: Any, tmp_path: Path) -> None:
    adapter = Qlora(r=4, init=init, targets="attention")
    model = attached(adapter)
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert (
        trained
        == adapter.count_trainable(adapter.shapes(tiny_model()))
        == adapter.count_trainable(adapter.shapes(packed()))
    )
    before = tiny_logits(model)
    train(model)
    adapter.save(model, tmp_path)
    loaded = peft.PeftModel.from_pretrained(packed(), tmp_path)
    wanted = tiny_logits(model)
    assert (wanted - before).abs().max() > 0.2
    # On some CPUs bitsandbytes computes in bfloat16, and not in layers that have been trained.
    assert (tiny_logits(loaded) - wanted).abs().max() < 5e-3


def test_it_begins_as_a_packed_model_is() -> None:
    model = packed()
    before = tiny_logits(model)
    assert torch.allclose(before, tiny_logits(Qlora(r=4).attach(model, TinyBatches(), seed=5)))
    assert torch.allclose(before, tiny_logits(attached(Qlora(r=4))))


def test_loftq_makes_up_for_what_packing_loses() -> None:
    """By as much as a product of this rank can: what is left has the singular values from the fifth on."""
    model = attached(Qlora(r=4, init="loftq"))
    layer = dict(peft_files.iter_lora_layers(model))[DOWN]
    lost = tiny_model().get_submodule(DOWN).weight.detach() - factor_starts.dequantise(layer.get_base_layer())
    made_up = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    best = torch.linalg.svdvals(lost)[4:].square().sum().sqrt()
    assert (lost - made_up.detach()).norm().item() == pytest.approx(best.item(), rel=1e-4)
    assert best < 0.95 * lost.norm()


def test_loftq_needs_the_weights() -> None:
    with raises(UsageError, "init=loftq"):
        Qlora(r=4, init="loftq").attach(packed(), TinyBatches(), seed=5)
