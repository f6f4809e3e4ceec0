"""LoRA-SB from a basis that is given: what it begins with, what shards of it average to, and what is no basis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from rerank.errors import DataError, MissingResourceError, UsageError  # noqa: E402
from rerank.finetune.adapters import Lora  # noqa: E402
from rerank.finetune.extra.adapters import LoraSb  # noqa: E402
from rerank.finetune.inspection.checkpoints import open_inspected_model  # noqa: E402
from rerank.finetune.inspection.merging import average_adapter_cores  # noqa: E402
from rerank.finetune.recipe import Recipe  # noqa: E402
from rerank.judges.attention.heads import HeadList  # noqa: E402
from rerank.models.adapters import HEADS, AdapterSettings  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_ids, tiny_logits, tiny_loss, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own
DOWN = "base_model.model.model.layers.1.mlp.down_proj"


class Unasked(TinyBatches):
    """Batches that nobody may look at."""

    def backward(self, model: Any, lists: int | None = None) -> None:
        """Not to be called."""
        raise AssertionError("a basis that is given needs no gradients")


def trained(adapter: LoraSb, folder: Path, *, seed: int, batches: Any = None) -> Any:
    """An adapter after three steps on its own data, saved as `rerank train` saves it; the model that was trained."""
    model = adapter.attach(tiny_model(), batches or TinyBatches(seed=seed), seed=seed).train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for step in range(3):
        tiny_loss(model, tiny_ids(100 * seed + step)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    folder.mkdir()
    adapter.save(model.eval(), folder)
    AdapterSettings(model=str(folder.parent / "base"), method="fullrank").write(folder)
    return model


@pytest.fixture
def basis(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "base")
    trained(LoraSb(r=4), tmp_path / "basis", seed=1)
    return tmp_path / "basis"


def cores(model: Any) -> dict[str, Any]:
    return {name: one.detach() for name, one in model.named_parameters() if name.endswith(".core")}


def test_it_begins_as_the_basis_ended(basis: Path, tmp_path: Path) -> None:
    model = LoraSb(r=4, basis=str(basis)).attach(tiny_model(), Unasked(), seed=9)
    wanted = tiny_logits(peft.PeftModel.from_pretrained(tiny_model(), basis))
    assert torch.allclose(tiny_logits(model), wanted, atol=1e-5)
    down = model.get_submodule(DOWN).lora_A["default"]
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
    assert average_adapter_cores([open_inspected_model(str(one)) for one in folders], tmp_path / "mean") == 14
    means = {name: (one + cores(models[1])[name]) / 2 for name, one in cores(models[0]).items()}
    assert not torch.allclose(means[f"{DOWN}.lora_A.default.core"], cores(models[0])[f"{DOWN}.lora_A.default.core"])
    models[0].load_state_dict(means, strict=False)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "mean")
    assert torch.allclose(tiny_logits(loaded), tiny_logits(models[0]), atol=1e-5)
    further = LoraSb(r=4, basis=str(tmp_path / "mean")).attach(tiny_model(), Unasked(), seed=0)
    assert torch.allclose(tiny_logits(further), tiny_logits(loaded), atol=1e-5)


def test_without_one_basis_shards_have_none(basis: Path, tmp_path: Path) -> None:
    trained(LoraSb(r=4), tmp_path / "other", seed=2)
    with raises(DataError, "basis"):
        average_adapter_cores(
            [open_inspected_model(str(one)) for one in (basis, tmp_path / "other")], tmp_path / "mean"
        )


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
    assert not model.get_submodule(DOWN).get_delta_weight("default").any()
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
    average_adapter_cores([open_inspected_model(str(one)), open_inspected_model(str(other))], tmp_path / "mean")
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
            average_adapter_cores([open_inspected_model(str(one)), open_inspected_model(str(other))], tmp_path / "mean")
    heads(other, {(1, 0): 0.7, (1, 2): 0.3}, 0.0, model={"model": "base", "weights": "xyz", "adapter": "beside"})
    with raises(DataError, "heads"):
        average_adapter_cores([open_inspected_model(str(one)), open_inspected_model(str(other))], tmp_path / "mean")
    (other / HEADS).unlink()
    with pytest.raises(MissingResourceError):
        average_adapter_cores([open_inspected_model(str(one)), open_inspected_model(str(other))], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
