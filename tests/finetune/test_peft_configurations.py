"""The adapter `peft`: which configurations and options it takes, and what it says of the others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402

from rerank.errors import UnknownNameError, UsageError  # noqa: E402
from rerank.finetune.adapters import LinearTargets  # noqa: E402
from rerank.finetune.component_registry import ADAPTERS, make_training_components  # noqa: E402
from rerank.finetune.kernels.peft_files import try_configuration  # noqa: E402
from rerank.finetune.recipe import Recipe  # noqa: E402
from rerank.selector import build_from_selector  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's own


def made(optimizer: str = "adamw", fsdp: bool = False, **options: Any) -> Any:
    table = {"data": {"lists": ["lists.jsonl"]}, "adapter": {"name": "peft", **options}, "seed": 7}
    recipe = Recipe.make(table | {"optimizer": {"name": optimizer}, "training": {"fsdp": fsdp}})
    return make_training_components(recipe).adapter


@pytest.mark.parametrize("name", ["hra", "HRA", "HRAConfig", "hraconfig"])
def test_a_configuration_has_several_spellings(name: str) -> None:
    model = made(config=name, r=4).attach(tiny_model(), TinyBatches(), seed=5)
    assert model.peft_config["default"].peft_type == "HRA"


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({}, UsageError, ("config",)),
        ({"config": "bofft"}, UnknownNameError, ("'bofft'", "'boft'", "xlora", "waveft")),
        ({"config": "boft", "block": 8}, UnknownNameError, ("'block'", "boft_block_size", "target_modules")),
        ({"config": "boft", "inference_mode": True}, UnknownNameError, ("inference_mode",)),
        ({"config": "boft", "boft_block_size": "x"}, UsageError, ("boft_block_size='x'", "a whole number")),
        ({"config": "oft", "r": 3, "oft_block_size": 3}, UsageError, ("'oft'", "oft_block_size (3)")),
        ({"config": "prompt_tuning"}, UsageError, ("prompt_tuning", "positions")),
        ({"config": "prefix-tuning"}, UsageError, ("positions",)),
        ({"config": "adaption_prompt"}, UsageError, ("positions",)),
        ({"config": "xlora"}, UsageError, ("mixes adapters",)),
        ({"config": "adalora"}, UsageError, ("the adapter adalora",)),
        ({"config": "adamss", "use_asa": True}, UsageError, ("after each optimizer step",)),
        ({"config": "lora", "init_lora_weights": "eva"}, UsageError, ("'eva'", "lora-ga")),
        ({"config": "lora", "init_lora_weights": "loftq"}, UsageError, ("'loftq'", "qlora")),
        ({"config": "lora", "layers_to_transform": [0]}, UsageError, ("layers_to_transform", "layers = N")),
        ({"config": "lora", "target_modules": ["q_proj"], "layers": 1}, UsageError, ("target_modules", "layers")),
        ({"config": "hra", "optimizer": "lora-plus"}, UsageError, ("lora-plus", "lora")),
        ({"config": "lora", "init_lora_weights": "pissa", "fsdp": True}, UsageError, ("fsdp", "base model")),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(
    options: dict[str, Any], error: type[UsageError], named: tuple[str, ...]
) -> None:
    with raises(error, *named):
        made(**options)


@pytest.mark.parametrize(
    ("selector", "named"),
    [
        ("peft:config=poly", ("'poly'", "task_ids")),
        ("peft:config=c3a,block_size=48", ("'c3a'", "48", "64")),
        ("peft:config=oft,r=0,oft_block_size=48", ("'oft'", "48")),
        ("peft:config=lora,targets=query", ("query", "q_proj")),
    ],
)
def test_what_does_not_fit_the_model(selector: str, named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        build_from_selector(ADAPTERS, selector).attach(tiny_model(), TinyBatches(), seed=5)


def test_kinds_decide_which_optimizers_fit() -> None:
    assert [made(config=name).shape for name in ("lora", "LoraConfig", "osf", "hra")] == [
        "lora",
        "lora",
        "full",
        "other",
    ]
    made(config="lora", optimizer="lora-plus")
    made(config="osf", optimizer="galore")


def test_targets_are_those_of_all_adapters_unless_the_configuration_says_otherwise() -> None:
    def adapted(**options: Any) -> set[str]:
        model = made(r=4, **options).attach(tiny_model(), TinyBatches(), seed=5)
        return {name.split(".", 2)[-1] for name in model.targeted_module_names}

    assert len(adapted(config="hra")) == 2 * 7
    assert adapted(config="hra", targets="q_proj", layers=1) == {"0.self_attn.q_proj"}
    assert adapted(config="hra", target_modules=["v_proj"], layers_to_transform=[1]) == {"1.self_attn.v_proj"}


def test_options_stay_when_an_adapter_is_limited_to_fewer_layers() -> None:
    adapter = made(config="boft", boft_block_size=8)
    limited = dataclasses.replace(adapter, layers=1)
    assert (limited.config, limited.layers, limited.options) == ("boft", 1, {"boft_block_size": 8})


def test_seeds_come_from_the_recipe_unless_they_are_given(tmp_path: Path) -> None:
    given: list[tuple[dict[str, Any], int]] = [({}, 5), ({"projection_prng_key": 11}, 11)]
    for options, seed in given:
        adapter = made(config="vera", r=4, **options)
        adapter.save(adapter.attach(tiny_model(), TinyBatches(), seed=5), tmp_path)
        saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
        assert saved["projection_prng_key"] == seed


def test_trials_tell_what_no_table_says() -> None:
    assert not try_configuration("fourierft", {}, LinearTargets()).identity
    lily, pissa = try_configuration("lily", {}, LinearTargets()), made(config="lora", init_lora_weights="pissa")
    assert (lily.identity, lily.moves_base, lily.merges) == (True, False, False)
    assert (pissa.identity, pissa.moves_base, pissa.merges, pissa.vllm) == (True, True, True, False)
    state = torch.random.get_rng_state()
    nothing = try_configuration("c3a", {"block_size": 500}, LinearTargets())
    assert (nothing.identity, nothing.moves_base, nothing.merges) == (False, True, False)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("preset", "configuration"),
    [
        ("lokr,r=4", "peft:config=lokr,r=4,alpha=4"),
        ("oft,block=16", "peft:config=oft,r=0,oft_block_size=16"),
        ("osf,keep=0.25", "peft:config=osf,effective_rank=0.25"),
        ("randlora,r=4", "peft:config=randlora,r=4,randlora_alpha=80,randlora_dropout=0,save_projection=false"),
        ("vera,r=4,d=0.2", "peft:config=vera,r=4,d_initial=0.2,save_projection=false"),
    ],
)
def test_names_of_earlier_recipes_are_configurations_with_their_defaults(preset: str, configuration: str) -> None:
    one, other = (
        build_from_selector(ADAPTERS, text).attach(tiny_model(), TinyBatches(), seed=5)
        for text in (preset, configuration)
    )
    assert one.peft_config["default"].to_dict() == other.peft_config["default"].to_dict()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


DOWN = "model.layers.1.mlp.down_proj"  # 64 rows, 128 columns


def values(layer: Any, name: str) -> Any:
    value = getattr(layer, name)["default"]
    return getattr(value, "weight", value).detach().double().numpy()


def lora(layer: Any, w: Any) -> Any:
    return w + 2 * values(layer, "lora_B") @ values(layer, "lora_A")


def dora(layer: Any, w: Any) -> Any:
    direction = lora(layer, w)
    return (
        values(layer, "lora_magnitude_vector")[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    )


def rslora(layer: Any, w: Any) -> Any:
    return w + 16 / np.sqrt(4) * values(layer, "lora_B") @ values(layer, "lora_A")


def vera(layer: Any, w: Any) -> Any:
    a, b = values(layer, "vera_A")[:, : w.shape[1]], values(layer, "vera_B")[: w.shape[0]]
    return w + values(layer, "vera_lambda_b")[:, None] * b @ (values(layer, "vera_lambda_d")[:, None] * a)


def randlora(layer: Any, w: Any) -> Any:
    """The sum of B_i L_i A G_i, transposed because the matrix is wider than high."""
    ranks, columns = values(layer, "randlora_lambda"), values(layer, "randlora_gamma")
    a, b = values(layer, "randlora_A")[:, 0, : w.shape[0]], values(layer, "randlora_B")[: w.shape[1], : len(columns)]
    b = b.reshape(w.shape[1], -1)
    return w + 20 * sum(b[:, i :: len(columns)] * ranks[:, i] @ a * g for i, g in enumerate(columns)).T


def adalora(layer: Any, w: Any) -> Any:
    return w + 8 / 6 * values(layer, "lora_B") @ (values(layer, "lora_E") * values(layer, "lora_A"))


def lokr(layer: Any, w: Any) -> Any:
    d = values(layer, "lokr_w2_a") @ values(layer, "lokr_w2_b")
    return w + np.kron(values(layer, "lokr_w1"), d)


def oft(layer: Any, w: Any) -> Any:
    rotation = np.zeros((w.shape[1], w.shape[1]))
    for index, entries in enumerate(values(layer, "oft_R")):
        block = np.zeros((8, 8))
        block[np.triu_indices(8, 1)] = entries
        block -= block.T
        at = slice(8 * index, 8 * index + 8)
        rotation[at, at] = (np.eye(8) + block) @ np.linalg.inv(np.eye(8) - block)  # the Cayley transform
    return w @ rotation.T  # peft rotates the inputs as row vectors


@pytest.mark.parametrize(
    ("selector", "formula"),
    [
        ("lora,r=4,alpha=8", lora),
        ("dora,r=4,alpha=8", dora),
        ("rslora,r=4", rslora),
        ("vera,r=4", vera),
        ("randlora,r=4", randlora),
        ("adalora,r=4,alpha=8", adalora),
        ("lokr,r=2", lokr),
        ("oft,block=8", oft),
    ],
)
def test_the_weight_is_that_of_the_paper(selector: str, formula: Callable[[Any, Any], Any]) -> None:
    model = build_from_selector(ADAPTERS, selector).attach(tiny_model(), TinyBatches(), seed=5)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.01)
    w = tiny_model().get_submodule(DOWN).weight.detach().double().numpy()
    wanted = formula(model.get_submodule(f"base_model.model.{DOWN}"), w)
    merged = model.merge_and_unload().get_submodule(DOWN).weight.detach().double().numpy()
    assert np.abs(wanted - w).max() > 1e-5
    assert np.allclose(merged, wanted, atol=1e-6, rtol=1e-4)
