"""Formulas of memory and arithmetic, and the stated costs of the fullrank paper's recipe."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from rerank.finetune.recipe import Recipe, read_recipe  # noqa: E402
from rerank.finetune.trainer import cost_estimate, packed_attention, training_run  # noqa: E402
from rerank.finetune.trainer.cost_estimate import (  # noqa: E402
    Card,
    TrainingSetup,
    estimate_training,
    h100_hours,
    model_size,
    training_memory,
)
from rerank.finetune.trainer.listwise_module import autocast, enable_activation_checkpointing  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from tests.finetune.small import recipe  # noqa: E402
from tests.lm.configurations import QWEN3_8B  # noqa: E402

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


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own
@pytest.mark.parametrize("name", ["Qwen3Config", "MistralConfig"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("attention", [packed_attention.ATTENTION_NAME, "sdpa"])
def test_kept_activations_are_the_tensors_that_autograd_saves(name: str, full: bool, attention: str) -> None:
    """Bytes per token of one layer: those saved by three layers minus those saved by two.

    With one text per batch, the attention is that of transformers, which then needs no mask, and copies no heads.
    """
    packs = attention != "sdpa"
    packed_attention.register()
    length, saved = 77, []
    for layers in (2, 3):
        config = getattr(transformers, name)(
            hidden_size=256,
            intermediate_size=640,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            vocab_size=300,
        )
        dtype = torch.float32 if full else torch.bfloat16
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
        size = model_size(model)
        if not full:
            lora = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
            model = peft.get_peft_model(model.requires_grad_(False), lora)
        kept: dict[int, Any] = {}

        def keep(tensor: Any, kept: dict[int, Any] = kept) -> Any:
            if length in tensor.shape:  # other tensors do not depend on the number of tokens
                kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        more = {"packing": packed_attention.PackedTrainingRow(texts=[(0, length)])} if packs else {}
        ids, positions = torch.zeros(1, length, dtype=torch.long), torch.arange(length)[None]
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast("cpu", "bfloat16"):
            model.train()(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=1, **more)
        saved.append(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
    setup = TrainingSetup(
        full=full, trained=0, state=0, processes=1, sharded=False, half=True, checkpointing=False, tokens=1, outputs=0,
        inputs=size.inputs,
    )  # fmt: skip
    passing = 12 * size.inner  # buffers of the backward pass
    planned = (training_memory(size, setup)["activations"] - passing) / size.layers
    # On a CPU, queries, keys, values and outputs of packed attention are kept in float32. Not planned are the low-rank
    # inputs of LoRA (7 matrices of rank 4) and the statistics of norms and attention. With transformers' attention, a
    # trained output matrix reads the outputs themselves; the plan has a copy.
    small = 7 * 4 * 2 * (not full) + 4 * (2 + 4 + 6 * (size.normed > 0))
    packed = 2 * 2 * (size.query + size.key) if packs else -2 * size.query * full
    assert (saved[1] - saved[0]) / length == planned + packed + small


def test_a_training_of_qwen3_8b_with_lora_on_8192_tokens(tmp_path: Path, collection: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B))
    asked = recipe(
        tmp_path,
        collection,
        training={"dtype": "bfloat16", "batch_size": 1},
        method={"context_size": 8192, "max_passage_tokens": None},
        adapter={"name": "lora", "r": 16, "alpha": 32},
    )
    found = estimate_training(asked, processes=1, device="cpu")
    assert found["weights"] == 2 * 8_190_735_360 + 4 * found["trained"]
    layer = 8 * 4096 + 4 * 5120 + 2 * (2 * 4096 + 2 * 1024 + 3 * 12288 + 6 * 4096 + 12288)
    logits = 5 * 5 * 151936 * 10
    assert found["activations"] == 8192 * (36 * layer + 12 * 12288) + logits
    assert 66e9 < found["activations"] < 67e9
    assert {(row["card"][:4], row["cards"], row["adapter"]): row["fits"] for row in found["cards"]} == {
        (card, cards, adapter): (card, cards, adapter) in FITS
        for card in ("L4, ", "L40S", "H100")
        for cards in (1, 8)
        for adapter in ("lora", "full")
    }
    (row,) = (r for r in found["cards"] if (r["card"][:4], r["cards"], r["adapter"]) == ("L40S", 8, "full"))
    assert (row["fsdp"], row["checkpointing"]) == (True, True)
    # two batches per step: two passes of gathered layers, and gradients in float32, from seven other cards
    layers, parameters = 8_190_735_360 - 2 * 151936 * 4096 - 4096, 8_190_735_360
    assert row["seconds"]["link"] == pytest.approx(2 * (2 * 2 * layers + 4 * parameters) * 7 / 8 / 32e9, rel=1e-9)
    attention = 36 * 8192 * 4096
    assert row["seconds"]["operations"] == pytest.approx(2 * 8192 * 8 * (layers + attention) / 362e12, rel=1e-9)
    assert row["lists_per_hour"] == pytest.approx(3600 / max(row["seconds"].values()) * 2 * 8)


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"adapter": {"name": "pissa", "r": 4}}, {"pissa": False, "full": True}),
        ({"adapter": {"name": "full"}, "optimizer": {"name": "galore"}}, {"full": False}),  # which trains no lora
    ],
)
def test_weights_are_planned_to_be_shared_only_where_they_can_be(
    model: Path, collection: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], shared: dict[str, bool]
) -> None:
    monkeypatch.setattr(cost_estimate, "CARDS", [Card("without memory", 0, 1e12, 1e9, 1e9)])  # the least is chosen
    rows = estimate_training(recipe(model, collection, **changes), processes=1, device="cpu")["cards"]
    assert {row["adapter"]: row["fsdp"] for row in rows if row["cards"] == 8} == shared
    assert not any(row["fits"] or row["fsdp"] for row in rows if row["cards"] == 1)


#: Trainings of Qwen3-8B on 8,192 tokens that fit: card, number of cards, adapter.
FITS = {
    *(("L4, ", 1, "lora"), ("L4, ", 8, "lora"), ("L40S", 1, "lora"), ("L40S", 8, "lora"), ("L40S", 8, "full")),
    *(("H100", 1, "lora"), ("H100", 8, "lora"), ("H100", 8, "full")),
}


@pytest.mark.parametrize(("share", "recomputed"), [(2.0, False), (0.9, True), (0.01, True)])
def test_activations_are_recomputed_if_they_would_not_fit(
    model: Path,
    collection: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    share: float,
    recomputed: bool,
) -> None:
    asked = recipe(model, collection, training={"steps": 1})
    needed = estimate_training(asked, processes=1, device="cpu")["total"]
    monkeypatch.setattr(training_run, "free_memory", lambda device: int(share * needed))
    enabled: list[Any] = []

    def enable(model: Any) -> None:
        enabled.append(model)
        enable_activation_checkpointing(model)

    monkeypatch.setattr(training_run, "enable_activation_checkpointing", enable)
    result = train_adapter(asked, tmp_path / "out")
    assert bool(enabled) == recomputed
    assert ("activations are recomputed" in caplog.text) == recomputed
    monkeypatch.undo()
    assert result.loss == train_adapter(asked, tmp_path / "plain").loss
