"""Target modules and their ranks, and options that do not fit a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.adapters import LinearTargets, Lora, Rslora  # noqa: E402
from rerank.finetune.component_registry import ADAPTERS  # noqa: E402
from rerank.finetune.extra.adapters import Lift, LoraGa, LoraXs, Pissa  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_ids, tiny_logits, tiny_loss, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own


def attached(adapter: Any) -> Any:
    return adapter.attach(tiny_model(), TinyBatches(), seed=5)


def train(model: Any) -> None:
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(3):
        tiny_loss(model, tiny_ids(9)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


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
