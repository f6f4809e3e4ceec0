"""Loading: folders and their hashes, adapters, devices, number formats, and what is said when it fails."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file

from rerank.backends.hf import CPU_BATCH_CHARACTERS, Hf
from rerank.errors import BackendError, DataError, MissingPrerequisiteError, MissingResourceError, UsageError
from rerank.io.model_base import hash_file_contents_of_model
from rerank.lm import loading
from rerank.models import open_model_backend
from rerank.models.adapters import adapter_folder
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, Request, Sampling
from tests.backends.conftest import in_memory, make_model, make_tokenizer, save_tiny
from tests.raising import raises

FP32 = BackendOptions(dtype="float32", device="cpu")
ASKED = Request(prompt=(Message("user", "a"),), sampling=Sampling(max_tokens=8, min_tokens=8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    with loading.quiet_transformers():
        peft.get_peft_model(make_model(), config).save_pretrained(str(tmp_path / "lora"))
    return tmp_path / "lora"


def test_a_folder_loads_and_answers_as_the_model_did(folder: Path) -> None:
    loaded = Hf.load(folder, FP32)
    direct = in_memory(make_model(), make_tokenizer())
    assert loaded.generate([ASKED])[0].text == direct.generate([ASKED])[0].text
    assert dict(loaded.identity) == {
        "model": "tiny",
        "weights": hash_file_contents_of_model(folder),
        "dtype": "float32",
    }
    assert (loaded.batch_size, loaded.batch_characters) == (4, CPU_BATCH_CHARACTERS)


def test_a_subclass_whose_load_takes_a_name_and_options_loads_what_was_described(folder: Path) -> None:
    class Plug(Hf):
        @classmethod
        def load(cls, name: str | Path, options: BackendOptions | None = None) -> Plug:
            return super().load(name, options)

    description = Plug.describe(folder, FP32)
    assert description
    backend = Plug.load_described(description)
    assert type(backend) is type(Plug.load(folder, FP32)) is Plug
    assert backend.tokens is description.tokens
    assert dict(backend.identity) == description.identity


def test_the_hash_depends_on_contents_only(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["transformers_version"] = "4.0.0"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "rerank-source.json").write_text("{}")
    (copy / "README.md").write_text("words")
    assert hash_file_contents_of_model(copy) == hash_file_contents_of_model(folder)
    (copy / "chat_template.jinja").write_text("another")
    changed = hash_file_contents_of_model(copy)
    assert changed != hash_file_contents_of_model(folder)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert hash_file_contents_of_model(copy) != changed
    (copy / "config.json").write_text("{broken")
    assert len(hash_file_contents_of_model(copy)) == 64


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_changes_the_weights_and_the_identity(folder: Path, adapter: Path, dtype: str) -> None:
    plain_options = BackendOptions(dtype=dtype, device="cpu")  # type: ignore[arg-type]
    plain = Hf.load(folder, plain_options)
    adapted = Hf.load(folder, plain_options.model_copy(update={"adapter": str(adapter)}))
    assert adapted.identity["adapter"] == hash_file_contents_of_model(adapter)
    cast = {"adapter_dtype": "bfloat16"} if dtype == "bfloat16" else {}
    assert dict(adapted.identity) == {**plain.identity, "adapter": hash_file_contents_of_model(adapter), **cast}
    assert adapted.generate([ASKED])[0].text != plain.generate([ASKED])[0].text


def lora_dtypes(backend: Hf) -> set[torch.dtype]:
    return {value.dtype for name, value in backend.model.named_parameters() if "lora_" in name}


def test_an_adapter_has_the_dtype_of_the_model_unless_asked_otherwise(folder: Path, adapter: Path) -> None:
    options = BackendOptions(dtype="bfloat16", device="cpu", adapter=str(adapter))
    cast, earlier = Hf.load(folder, options), Hf.load(folder, options.model_copy(update={"adapter_dtype": "float32"}))
    assert (lora_dtypes(cast), lora_dtypes(earlier)) == ({torch.bfloat16}, {torch.float32})
    assert {**cast.identity} == {**earlier.identity, "adapter_dtype": "bfloat16"}
    merged, plain = (
        Hf.load(folder, options.model_copy(update={"dtype": "float32", "adapter": name})) for name in (str(adapter), "")
    )
    assert lora_dtypes(merged) == set()
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        exact, base, *rounded = (backend.model(ids).logits.float() for backend in (merged, plain, cast, earlier))
    for logits in rounded:
        assert (logits - exact).abs().mean() < 0.1 * (base - exact).abs().mean()
    assert not torch.equal(*rounded)


def test_an_adapter_with_norms_stays_in_float32(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    with loading.quiet_transformers():
        peft.get_peft_model(make_model(), config).save_pretrained(str(tmp_path / "dora"))
    backend = Hf.load(folder, BackendOptions(dtype="bfloat16", device="cpu", adapter=str(tmp_path / "dora")))
    assert lora_dtypes(backend) == {torch.float32}
    assert "adapter_dtype" not in backend.identity


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_merged_adapter_is_rounded_once(folder: Path, adapter: Path, dtype: Any) -> None:
    options = BackendOptions(dtype=dtype, device="cpu")
    adapted = options.model_copy(update={"adapter": str(adapter)})
    plain, attached = Hf.load(folder, options), Hf.load(folder, adapted)
    merged = Hf.load(folder, adapted.model_copy(update={"merge_adapter": True}))
    assert {**merged.identity} == {**attached.identity, "merge_adapter": "true"}
    weights, factors = merged.model.state_dict(), load_file(adapter / "adapter_model.safetensors")
    changed, differs = set(), False
    for name, value in plain.model.state_dict().items():
        place = f"base_model.model.{name.removesuffix('.weight')}"
        expected = value
        if (key := f"{place}.lora_A.weight") in factors:
            changed.add(name)
            change = 2 * factors[f"{place}.lora_B.weight"] @ factors[key]  # alpha / r = 8 / 4
            expected = (value.float() + change).to(value.dtype)
            differs |= not torch.equal(expected, value + change.to(value.dtype))  # rounded twice
        assert torch.equal(weights[name], expected)
    assert len(changed) == 4
    assert differs
    exact = FP32.model_copy(update={"adapter": str(adapter), "merge_adapter": True})
    assert "merge_adapter" not in Hf.load(folder, exact).identity  # adapters are always merged in float32


def test_what_cannot_be_merged(folder: Path, adapter: Path) -> None:
    options = BackendOptions(dtype="bfloat16", device="cpu", adapter=str(adapter), merge_adapter=True)
    for model in ("openai:x", "vllm:x", "fake:reversed"):
        with raises(UsageError, "--merge-adapter", model, "Omit the option"):
            open_model_backend(model, options)
    with raises(UsageError, "--merge-adapter", "without an adapter", "Omit"):
        open_model_backend(str(folder), options.model_copy(update={"adapter": None}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with raises(UsageError, "--merge-adapter", "tiny' are quantised", "Omit"):
        open_model_backend(str(folder), options, lazy=True)
    (folder / "config.json").write_text(json.dumps(config))
    kind = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**kind, "use_dora": True}))
    with raises(UsageError, "--merge-adapter", "lora' is no plain LoRA", "Omit"):
        open_model_backend(str(folder), options)


def test_an_adapter_without_some_of_its_weights_is_refused(folder: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if "layers.0" not in name}, path)
    with raises(DataError, "is incomplete", "layers.0"):
        Hf.load(folder, BackendOptions(dtype="float32", device="cpu", adapter=str(adapter)))


def test_adapters_that_cannot_be_used(folder: Path, adapter: Path, tmp_path: Path) -> None:
    def load(path: Path) -> Hf:
        return Hf.load(folder, BackendOptions(dtype="float32", device="cpu", adapter=str(path)))

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(adapter / "adapter_config.json", pickled)
    (pickled / "adapter_model.bin").write_bytes(b"")
    with raises(MissingResourceError, "adapter_model.safetensors"):
        adapter_folder(str(pickled))
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["no_such_layer"]}))
    with raises(UsageError, "no_such_layer"):
        load(other)


def test_an_adapter_that_is_neither_here_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(name: str, **_: Any) -> str:
        raise OSError(f"no {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with raises(MissingResourceError, "somebody/lora"):
        adapter_folder("somebody/lora")


def test_a_learned_prompt_is_refused(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with loading.quiet_transformers():
        peft.get_peft_model(make_model(), config).save_pretrained(str(tmp_path / "prompt"))
    with raises(UsageError, "prompt"):
        Hf.load(folder, BackendOptions(device="cpu", dtype="float32", adapter=str(tmp_path / "prompt")))


def test_a_damaged_folder_says_what_was_expected(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with raises(MissingResourceError, folder.name, "safetensors"):
        Hf.load(folder, FP32)


def test_truncated_weights_are_no_surprise(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with raises(DataError, folder.name):
        Hf.load(folder, FP32)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ImportError("sentencepiece"), MissingPrerequisiteError),
        (RuntimeError("can't allocate memory"), BackendError),
        (KeyError("new_model_type"), MissingResourceError),
    ],
)
def test_other_failures_of_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    import transformers

    def broken(*_: Any, **__: Any) -> Any:
        raise raised

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", broken)
    with pytest.raises(expected, match=str(raised.args[0]).replace("'", ".")):
        Hf.load(folder, FP32)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert loading.pick_device("auto") == "cpu"
    for bad in ("cuda", "mps", "tpu", "cpu:x"):
        with raises(UsageError, bad, "auto, cpu"):
            loading.pick_device(bad)
    monkeypatch.setattr(torch.version, "cuda", None)
    with raises(UsageError, "build for CPUs only", torch.__version__, "https://pytorch.org/get-started/locally"):
        loading.pick_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with raises(UsageError, "torch finds no GPU", "nvidia-smi", "CUDA_VISIBLE_DEVICES"):
        loading.pick_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert loading.pick_device("auto") == "cuda"
    assert loading.pick_device("cuda:1") == "cuda:1"
    with raises(UsageError, "cuda:2"):
        loading.pick_device("cuda:2")


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
def test_the_attention_function_is_that_of_the_option(folder: Path, attention: Any) -> None:
    backend = Hf.load(folder, FP32.model_copy(update={"attention": attention}))
    assert backend.model.config._attn_implementation == ("sdpa" if attention == "auto" else attention)
    assert backend.identity.get("attention", "auto") == attention  # auto is as before this option existed


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="about its absence")
def test_an_attention_function_without_its_package(folder: Path) -> None:
    with raises(MissingPrerequisiteError, folder.name, "FlashAttention2", "Omit --attention", "flash-attn"):
        Hf.load(folder, FP32.model_copy(update={"attention": "flash_attention_2"}))


@pytest.mark.parametrize("model", ["fake:reversed", "openai:x", "jina-ranking:x", "late-interaction:x", "vllm:x"])
def test_other_backends_have_no_attention_function(model: str) -> None:
    with raises(UsageError, "--attention eager", model, "Omit"):
        open_model_backend(model, BackendOptions(attention="eager"))


@pytest.mark.parametrize(
    ("method", "package", "needs"),
    [
        ("bitsandbytes", "bitsandbytes", {"load_in_4bit": True}),
        ("compressed-tensors", "compressed_tensors", {"format": "float-quantized", "config_groups": {}}),
        ("gptq", "optimum", {"bits": 4, "group_size": 128}),
        ("awq", "gptqmodel", {"bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}),
    ],
)
def test_quantised_weights_without_their_package(
    folder: Path, method: str, package: str, needs: Mapping[str, Any]
) -> None:
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    path = folder / "config.json"
    quantised = {**json.loads(path.read_text()), "quantization_config": {"quant_method": method, **needs}}
    path.write_text(json.dumps(quantised))
    with raises(MissingPrerequisiteError, folder.name, package.replace("_", "-")):
        Hf.load(folder, FP32)


def test_number_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "processor_flags", lambda: frozenset({"sse2"}))
    assert loading.pick_dtype("auto", "cpu") == "float32"
    assert loading.pick_dtype("bfloat16", "cpu") == "bfloat16"
    for flag in ("amx_bf16", "avx512_bf16"):
        monkeypatch.setattr(loading, "processor_flags", lambda flag=flag: frozenset({flag}))
        assert loading.pick_dtype("auto", "cpu") == "bfloat16"


def test_processor_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu amx_bf16\nflags : other\n")
    for path, expected in ((info, True), (tmp_path / "none", False)):
        monkeypatch.setattr(loading, "_CPUINFO", path)
        loading.processor_flags.cache_clear()
        assert ("amx_bf16" in loading.processor_flags()) is expected
    loading.processor_flags.cache_clear()


def test_quiet_leaves_transformers_as_it_was() -> None:
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    with loading.quiet_transformers():
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with raises(MissingPrerequisiteError, "[hf]'") as caught:
        Hf.load(tmp_path)
    assert isinstance(caught.value.__cause__, ImportError)


def test_without_peft_an_adapter_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with raises(MissingPrerequisiteError, "peft", "[hf]'"):
        Hf.load(folder, BackendOptions(device="cpu", dtype="float32", adapter="x"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "int8"),
        ({"adapter_dtype": "int8"}, "int8"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"context_size": -1}, "context_size = -1"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with raises(UsageError, message):
        BackendOptions(**options)


def test_a_pickled_backend_is_opened_once_per_process_and_answers_equally(folder: Path, adapter: Path) -> None:
    loaded = Hf.load(folder, FP32.model_copy(update={"adapter": str(adapter), "batch_size": 3}))
    pickled = pickle.dumps(loaded)
    copy = pickle.loads(pickled)
    assert copy is not loaded
    assert copy is pickle.loads(pickled)
    assert copy.identity == loaded.identity
    assert (copy.batch_size, copy.settings_folder) == (3, adapter)
    assert copy.generate([ASKED])[0].text == loaded.generate([ASKED])[0].text


def test_only_the_same_model_is_opened_again(folder: Path) -> None:
    pickled = pickle.dumps(Hf.load(folder, FP32))
    with loading.quiet_transformers():
        make_model(seed=1).save_pretrained(folder)
    with raises(BackendError, str(folder)):
        pickle.loads(pickled)


def test_a_model_in_memory_has_no_pickle() -> None:
    with raises(UsageError, "in-memory"):
        pickle.dumps(in_memory(make_model(), make_tokenizer()))


def test_a_forked_process_does_not_use_the_model_of_its_parent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Hf.load(folder, FP32)
    monkeypatch.setattr("os.getpid", lambda: -1)
    for use in (lambda: backend.generate([ASKED]), lambda: Hf.load(folder, FP32)):
        with raises(UsageError, "spawn"):
            use()
