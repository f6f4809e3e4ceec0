"""Formulas of memory and arithmetic, and the stated costs of the fullrank paper's recipe."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from rerank.finetune.recipe import Recipe, read_recipe  # noqa: E402
from rerank.finetune.trainer.cost_estimate import estimate_training, h100_hours  # noqa: E402
from tests.finetune.small import recipe  # noqa: E402

PAPER = Path(__file__).parents[2] / "training" / "fullrank-paper"
#: Configuration of mistralai/Mistral-7B-Instruct-v0.3.
MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "vocab_size": 32768,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}


def paper_recipe(folder: Path) -> Recipe:
    """The recipe of the paper, with a folder that has only the configuration of its model."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MISTRAL))
    return read_recipe(PAPER / "recipe.toml").model_copy(update={"model": str(folder)})


@pytest.mark.parametrize("processes", [4, 8])
def test_the_stated_costs_are_those_of_the_formula(tmp_path: Path, processes: int) -> None:
    stated = tomllib.loads((PAPER / "expected.toml").read_text())
    found = estimate_training(paper_recipe(tmp_path / "m"), processes=processes, device="cpu")
    memory = stated[f"gb_on_{processes}_gpus"]
    assert {name: round(found[name] / 1e9, 1) for name in memory} == memory
    assert found["parameters"] == found["trained"] == stated["parameters"]
    if processes == 4:
        assert found["steps"] == stated["steps"]
        assert found["tokens"] == stated["tokens"]
        assert float(f"{found['flops']:.2e}") == stated["flops"]
        assert [round(hours, 1) for hours in found["h100_hours"]] == stated["h100_hours"]


def test_the_recipe_is_that_of_the_paper() -> None:
    asked = read_recipe(PAPER / "recipe.toml")
    table = asked.training
    assert asked.model == "mistralai/Mistral-7B-Instruct-v0.3"
    assert (asked.optimizer.lr, table.schedule, round(table.warmup * 125), table.neftune) == (5e-6, "cosine", 50, 5)
    assert (table.epochs, table.batch_size, table.accumulation, table.dtype) == (4, 1, 8, "bfloat16")


def test_parts_of_an_adapter_s_training(model: Path, collection: Path) -> None:
    """Only the frozen weights of the layers are divided among processes."""
    found: dict[bool, dict[str, Any]] = {}
    for sharded in (False, True):
        asked = recipe(model, collection, training={"fsdp": sharded})
        found[sharded] = estimate_training(asked, processes=2, device="cpu")
    # q, o: 64 x 64; k, v: 32 x 64; gate, up, down: 64 x 128; two norms
    layers = 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64)
    assert found[False]["weights"] - found[True]["weights"] == 4 * layers // 2
    adapter = 3 * 4 * ((64 + 64) * 2 + (64 + 32) * 2 + (64 + 128) * 3)
    for parts in found.values():
        assert parts["trained"] == adapter
        assert (parts["gradients"], parts["state"]) == (4 * adapter, 8 * adapter)
        assert parts["total"] == sum(
            parts[name] for name in ("weights", "gradients", "state", "gathered", "activations")
        )
    assert (found[False]["gathered"], found[True]["steps"]) == (0, 4)


def test_hours_follow_from_operations() -> None:
    low, high = h100_hours(3.6e18)
    assert low == pytest.approx(1000 / 0.37 / 989, rel=1e-9)
    assert high == pytest.approx(1000 / 0.2 / 989, rel=1e-9)


def test_lists_of_every_format_are_counted(model: Path, collection: Path, tmp_path: Path) -> None:
    lists = tmp_path / "flag.jsonl"
    lists.write_text('{"query": "wing", "pos": ["lift"], "neg": ["jet"]}\n' * 5)
    asked = recipe(model, collection, data={"lists": [str(lists)]}, training={"steps": None, "accumulation": 2})
    assert estimate_training(asked, processes=1, device="cpu")["steps"] == 3
