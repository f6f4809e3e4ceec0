"""Properties that every adapter must have. Runs over all registered adapters, experimental ones included."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from rerank.errors import UsageError  # noqa: E402
from rerank.finetune.component_registry import ADAPTERS  # noqa: E402
from rerank.finetune.components import PARAMETER_KINDS  # noqa: E402
from rerank.finetune.trainer.sharding import pickle_without_values  # noqa: E402
from rerank.selector import Selector, build_from_selector_options  # noqa: E402
from tests.finetune.tiny import TinyBatches, tiny_ids, tiny_logits, tiny_loss, tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*projection_prng_key.*"),  # RandLoRA and VeRA on loading: it is in their cards
    pytest.mark.filterwarnings("ignore:.*past_key_values.*:FutureWarning"),  # peft's ShadowPEFT, in every pass
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),  # peft's own, on loading
    pytest.mark.filterwarnings("ignore:(Failed to load the CUDA extension|Setting boft_n):UserWarning"),  # BOFT
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),  # peft's LN tuning, on its own targets
]


#: Configurations of peft for the adapter `peft`, with options that fit the tiny model.
CONFIGURATIONS = (
    "peft:config=boft,boft_block_size=8",
    "peft:config=c3a,block_size=32",
    "peft:config=delora,r=4",
    "peft:config=fourierft,n_frequency=200",
    "peft:config=hra,r=4",
    "peft:config=ia3",
    "peft:config=lily,r=4",
    "peft:config=ln_tuning",
    "peft:config=loha,r=4",
    "peft:config=lokr,r=4",
    "peft:config=LoraConfig,r=4",
    "peft:config=lora,r=4,use_dora=true",
    "peft:config=lora,r=4,init_lora_weights=olora",
    "peft:config=lora,r=4,init_lora_weights=pissa",
    "peft:config=miss,r=4",
    "peft:config=oft,oft_block_size=16,r=0",
    "peft:config=psoft,r=4",
    "peft:config=randlora,r=4",
    "peft:config=shira,r=4",
    "peft:config=vera,r=4",
    "peft:config=waveft,n_frequency=200",
)
#: Configurations whose size depends on which layers are norms, feed-forward or neighbours of each other.
COUNTED_ELSEWHERE = ("peft:config=ia3", "peft:config=ln_tuning", "peft:config=lily,r=4")
#: peft does not convert the inputs and outputs of these layers, so that trained float32 weights do not fit 16 bits.
ONLY_32_BITS = ("peft:config=ln_tuning",)
NAMES = [*(name for name in ADAPTERS.names() if name != "peft"), *CONFIGURATIONS]


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    if needs := ADAPTERS.get(found.partition(":")[0]).needs:
        pytest.skip(f"{found} needs {needs}, and the tiny models are on the CPU")
    return found


def make_adapter(name: str, **options: Any) -> Any:
    """Return an adapter that is small enough for the tiny model."""
    selector = Selector.parse(name)
    has_rank = any(field.name == "r" for field in fields(ADAPTERS.get(selector.name)))
    small = {"r": 4} if has_rank else {}
    return build_from_selector_options(ADAPTERS, selector.name, {**small, **selector.options, **options})


def attach_to_tiny_model(adapter: Any, seed: int = 5) -> Any:
    return adapter.attach(tiny_model(), TinyBatches(), seed=seed)


def train(model: Any, steps: int = 3) -> list[float]:
    """Return the losses of a few steps on one batch."""
    model.train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        loss = tiny_loss(model, tiny_ids(9))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def state(model: Any) -> dict[str, Any]:
    """Return everything that saving could change."""
    found: dict[str, Any] = {name: one.detach().clone() for name, one in model.state_dict().items()}
    found["asks"] = [(name, one.requires_grad) for name, one in model.named_parameters()]
    found["training"] = [(name, one.training) for name, one in model.named_modules()]
    found["config"] = {key: repr(one) for key, one in getattr(model, "peft_config", {}).items()}
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if torch.is_tensor(one[key]) else one[key] == other[key] for key in one
    )


def reload(adapter: Any, folder: Path) -> Any:
    if adapter.saves == "model":
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return peft.PeftModel.from_pretrained(tiny_model(), folder).eval()


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    adapter = make_adapter(name)
    assert is_dataclass(type(adapter))
    assert adapter.__dataclass_params__.frozen
    assert all(field.kw_only for field in fields(adapter))
    assert adapter.__doc__
    assert 0 < len(adapter.summary) <= 90
    assert adapter.paper or name == "full"
    assert adapter.shape in PARAMETER_KINDS
    assert adapter.saves in {"adapter", "model"}
    assert adapter.needs in {"", "cuda"}
    assert not (adapter.vllm and adapter.saves == "model")
    assert {type(flag) for flag in (adapter.identity, adapter.moves_base, adapter.merges, adapter.vllm)} == {bool}
    ADAPTERS.get(name.partition(":")[0])()


def test_nothing_heavy_is_imported_to_list_them() -> None:
    code = (
        "import sys; from rerank.finetune.component_registry import ADAPTERS\n"
        "[ADAPTERS.get(name)() for name in ADAPTERS.names()]\n"
        "print({'torch', 'peft', 'transformers', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_it_begins_as_the_model_is(name: str) -> None:
    adapter, before = make_adapter(name), tiny_logits(tiny_model())
    moved = float((tiny_logits(attach_to_tiny_model(adapter)) - before).abs().max())
    assert moved <= 1e-5 if adapter.identity else moved > 0


def test_the_base_model_moves_only_where_it_says_so(name: str) -> None:
    adapter, model = make_adapter(name), tiny_model()
    before = {key: one.clone() for key, one in model.state_dict().items()}
    wrapped = adapter.attach(model, TinyBatches(), seed=5)
    after = {
        key.removeprefix("base_model.model.").replace(".base_layer.", "."): one
        for key, one in wrapped.state_dict().items()
    }
    moved = [key for key, one in before.items() if not torch.equal(one, after[key])]
    assert bool(moved) == adapter.moves_base


def test_only_what_trains_has_gradients_and_moves(name: str) -> None:
    model = attach_to_tiny_model(make_adapter(name))
    before = {key: one.detach().clone() for key, one in model.named_parameters()}
    tiny_loss(model, tiny_ids(9)).backward()  # type: ignore[no-untyped-call]
    for key, one in model.named_parameters():
        assert (one.grad is not None) == one.requires_grad, key
    model.zero_grad()
    assert all(map(torch.isfinite, map(torch.tensor, train(model))))
    moved = {key for key, one in model.named_parameters() if not torch.equal(one, before[key])}
    asks = {key for key, one in model.named_parameters() if one.requires_grad}
    assert moved == asks


def test_the_formula_counts_what_trains(name: str) -> None:
    if name in COUNTED_ELSEWHERE:
        pytest.skip("what trains depends on more than the shapes of the linear layers")
    adapter = make_adapter(name)
    counted = sum(one.numel() for one in attach_to_tiny_model(adapter).parameters() if one.requires_grad)
    assert adapter.count_trainable(adapter.shapes(tiny_model())) == counted


def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    adapter = make_adapter(name)
    first = state(attach_to_tiny_model(adapter))
    torch.manual_seed(99)  # what was drawn before does not matter
    assert same(first, state(attach_to_tiny_model(adapter)))


def test_other_processes_get_its_structure_without_values(name: str) -> None:
    adapter = make_adapter(name)
    model = attach_to_tiny_model(adapter)
    if name == "osf":  # it is refused before a training with fsdp = true
        with raises(UsageError, "fsdp = true", "hook"):
            pickle_without_values(model, adapter)
        return
    received, settings = pickle.loads(pickle_without_values(model, adapter))
    assert settings == adapter
    for value, empty in zip(model.parameters(), received.parameters(), strict=True):
        assert (empty.shape, empty.requires_grad) == (value.shape, value.requires_grad)
        assert empty.untyped_storage().nbytes() <= 8
        empty.data = value.detach().clone()
    assert torch.equal(tiny_logits(received), tiny_logits(model))


def test_it_stays_in_the_mode_that_the_model_is_in(name: str) -> None:
    assert not any(module.training for module in attach_to_tiny_model(make_adapter(name)).modules())


def test_the_loss_falls_under_adamw(name: str) -> None:
    losses = train(attach_to_tiny_model(make_adapter(name)), steps=11)
    assert losses[-1] < losses[0] - 0.02


def test_what_is_saved_loads_as_what_was_trained(name: str, tmp_path: Path) -> None:
    adapter = make_adapter(name)
    model = attach_to_tiny_model(adapter)
    before = tiny_logits(model)
    train(model)
    wanted = tiny_logits(model)
    assert (wanted - before).abs().max() > 1e-3, "nothing was learnt that could be lost"
    kept = state(model)
    adapter.save(model, tmp_path)
    assert same(kept, state(model)), "saving changed the model"
    assert (tiny_logits(reload(adapter, tmp_path)) - wanted).abs().max() <= 1e-4
    if adapter.saves == "adapter":
        assert {"adapter_config.json", "adapter_model.safetensors"} == {one.name for one in tmp_path.iterdir()}


def test_what_trains_is_all_that_a_checkpoint_needs(name: str) -> None:
    """An adapter attached again with the same seed and data continues from the trained parameters."""
    adapter = make_adapter(name)
    model = attach_to_tiny_model(adapter)
    train(model)
    kept = {key: one.detach().clone() for key, one in model.named_parameters() if one.requires_grad}
    again = attach_to_tiny_model(adapter)
    assert not again.load_state_dict(kept, strict=False).unexpected_keys
    assert torch.equal(tiny_logits(again), tiny_logits(model))


def test_a_model_of_16_bits(name: str, tmp_path: Path) -> None:
    if name in ONLY_32_BITS:
        with raises(UsageError, "data type"):
            make_adapter(name).attach(tiny_model().bfloat16(), TinyBatches(), seed=5)
        return
    adapter = make_adapter(name)
    model = adapter.attach(tiny_model().bfloat16(), TinyBatches(), seed=5)
    assert all(map(torch.isfinite, map(torch.tensor, train(model))))
    wanted = tiny_logits(model)
    adapter.save(model, tmp_path)
    if adapter.saves == "model":
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    else:
        loaded = peft.PeftModel.from_pretrained(tiny_model().bfloat16(), tmp_path).eval()
    error = float((tiny_logits(loaded) - wanted).float().abs().max() / wanted.float().std())
    assert error <= 0.1


def test_what_trains_is_wide_in_a_model_of_16_bits(name: str) -> None:
    """Except the model's own weights, which keep the data type in which they were loaded."""
    if name in ONLY_32_BITS:
        pytest.skip("it is refused")
    model = make_adapter(name).attach(tiny_model().bfloat16(), TinyBatches(), seed=5)
    kinds = {one.dtype for one in model.parameters() if one.requires_grad}
    assert kinds == {torch.bfloat16 if name == "full" else torch.float32}


def test_merging_changes_nothing(name: str) -> None:
    adapter = make_adapter(name)
    model = attach_to_tiny_model(adapter)
    if not adapter.merges:
        pytest.skip("it cannot be merged")
    train(model)
    wanted = tiny_logits(model)
    merged = model.merge_and_unload()
    assert (tiny_logits(merged) - wanted).abs().max() <= 1e-4
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in tiny_model().named_parameters()}


def test_the_first_layers_alone(name: str) -> None:
    if not any(field.name == "layers" for field in fields(make_adapter(name))):
        pytest.skip("it has no such option")
    adapter = make_adapter(name, layers=1)
    trained = {key: one for key, one in attach_to_tiny_model(adapter).named_parameters() if one.requires_grad}
    assert not any(".model.layers.1." in key for key in trained)
    assert any(".model.layers.0." in key for key in trained)
    if name not in COUNTED_ELSEWHERE:
        assert adapter.count_trainable(adapter.shapes(tiny_model())) == sum(one.numel() for one in trained.values())


def against_vllm(folder: Path) -> list[str]:
    """Return why vLLM would refuse an adapter, or compute something else with it."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config["peft_type"] != "LORA":
        return ["it is no LoRA"]
    parts = ("bias", "lora_bias", "modules_to_save", "use_dora", "rank_pattern", "alpha_pattern")
    found = [f"it has {part}: {config[part]}" for part in parts if config[part] not in (None, False, {}, "none")]
    # What begins with something else than 0 has moved the base model.
    return found + ([] if config["init_lora_weights"] is True else ["it changes the base model on loading"])


def test_what_is_for_vllm_is_a_plain_lora(name: str, tmp_path: Path) -> None:
    adapter = make_adapter(name)
    if adapter.saves == "model":
        pytest.skip("it saves a model")
    adapter.save(attach_to_tiny_model(adapter), tmp_path)
    reasons = against_vllm(tmp_path)
    assert adapter.vllm == (not reasons), reasons
