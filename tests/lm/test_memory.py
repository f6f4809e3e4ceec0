"""The memory plan of a model against models with known sizes, caches and live tensors, and batches that fit into it."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from rerank.backends.cross_encoder import CrossEncoder  # noqa: E402
from rerank.backends.hf import Hf  # noqa: E402
from rerank.errors import UsageError  # noqa: E402
from rerank.experiment.estimate import describe_batch  # noqa: E402
from rerank.lm.memory import (  # noqa: E402
    bits_per_weight,
    choose_batch_tokens,
    make_empty_model,
    parse_memory_size,
    plan_memory,
    plan_tokens,
    split_into_batches,
)
from rerank.lm.model_files import ModelFiles  # noqa: E402
from rerank.lm.out_of_memory import BatchLimit  # noqa: E402
from rerank.models import open_model_backend  # noqa: E402
from rerank.pipeline.stream import Flow  # noqa: E402
from rerank.prompts.base import Message  # noqa: E402
from rerank.tasks import BackendOptions, LikelihoodTask, Reply, Request, Sampling  # noqa: E402
from tests.backends.conftest import in_memory, make_model, make_tokenizer  # noqa: E402
from tests.lm.configurations import QWEN3_8B  # noqa: E402

_GQA = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    **_GQA,
    "num_hidden_layers": 32,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
}
BERT = {"architectures": ["BertModel"], "model_type": "bert"}
MODERN = {"architectures": ["ModernBertModel"], "model_type": "modernbert"}
GPT2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new"}
T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 768,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "tie_word_embeddings": True,
}


def files(folder: Path, config: dict[str, Any]) -> ModelFiles:
    (folder / "config.json").write_text(json.dumps(config))
    return ModelFiles(folder=folder)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (QWEN3_8B, 8_190_735_360),
        (LLAMA_8B, 8_030_261_248),
        (SMOLLM2, 134_515_008),
        (BERT, 109_482_240),
        (MODERN, 149_014_272),
        (T5, 222_903_552),
    ],
    ids=lambda value: value["architectures"][0] if isinstance(value, dict) else "",
)
def test_parameters_are_those_that_the_models_have(tmp_path: Path, config: dict[str, Any], parameters: int) -> None:
    width = {} if "d_model" in config else {"hidden_size": 768}
    plan = plan_memory(files(tmp_path, width | config), "bfloat16")
    assert plan.parameters == parameters
    assert plan.weights == 2 * parameters
    assert ["square of the length" in note for note in plan.notes] == [True] * (config is T5)


SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 100, "intermediate_size": 96}
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
_WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("LlamaConfig", {"num_attention_heads": 4}),
        ("Qwen3Config", {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 24}),
        ("GPT2Config", {"n_embd": 64, "n_layer": 3, "n_head": 4}),
        ("Gemma3TextConfig", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **_WINDOWS}),
        ("DeepseekV3Config", {"num_attention_heads": 4, "first_k_dense_replace": 3, **_LATENT}),
    ],
)
def test_the_cache_has_the_planned_size(name: str, values: dict[str, Any]) -> None:
    config = getattr(transformers, name)(**(SMALL if name != "GPT2Config" else {"vocab_size": 100}), **values)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    plan = plan_tokens(model.config, "float32")
    sizes = []
    for length in (12, 40):
        with torch.inference_mode():
            cache = model(torch.zeros((2, length), dtype=torch.long), use_cache=True).past_key_values
        sizes.append(sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers))
    assert sizes[0] == 2 * 12 * (plan.cache + plan.window_cache)
    kept = 40 if not plan.window else 15  # transformers keeps the window without the next token
    assert sizes[1] == 2 * (40 * plan.cache + kept * plan.window_cache)
    assert (plan.window, bool(plan.window_cache)) == ((16, True) if "layer_types" in values else (0, False))


class LivePeak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The largest number of bytes of tensors that were made inside the block and alive at the same time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self._known:
                self._known.add(key)
                self.live += tensor.untyped_storage().nbytes()
                weakref.finalize(tensor.untyped_storage(), self._free, key, tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self.live)
        return output

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@pytest.mark.parametrize("config", [QWEN3_8B, LLAMA_8B, SMOLLM2, BERT, MODERN, GPT2, T5], ids=lambda c: c["model_type"])
def test_activations_are_an_upper_estimate_of_live_tensors(tmp_path: Path, config: dict[str, Any]) -> None:
    found = files(tmp_path, {**config, "num_hidden_layers": 4})
    parsed = transformers.AutoConfig.from_pretrained(tmp_path)
    model = make_empty_model(parsed, found.classes).to(torch.bfloat16).eval()
    plan, (rows, length) = plan_tokens(parsed, "bfloat16"), (4, 512)
    options: dict[str, Any] = {"use_cache": True, "logits_to_keep": 1} if plan.cache else {}
    if config is T5:
        options = {"decoder_input_ids": torch.zeros((rows, 1), dtype=torch.long, device="meta")}
    with torch.inference_mode(), LivePeak() as tensors:
        model(torch.zeros((rows, length), dtype=torch.long, device="meta"), **options)
    assert (0.75 if config is T5 else 0.9) <= tensors.peak / (rows * length * (plan.cache + plan.activations)) <= 1.03


@pytest.mark.parametrize(
    ("quantised", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4.15625),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.15625),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4.127),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 128**2),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
            },
            4.125,
        ),
        ({"quant_method": "unheard"}, None),
    ],
)
def test_bits_of_quantised_weights(tmp_path: Path, quantised: dict[str, Any], bits: float | None) -> None:
    assert bits_per_weight(quantised) == bits
    plan = plan_memory(files(tmp_path, {**QWEN3_8B, "quantization_config": quantised}), "bfloat16")
    matrices = 36 * (4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 12288)
    assert plan.matrices == matrices  # without embeddings and the output head
    assert plan.weights == int(matrices * (bits or 16) / 8) + 2 * (plan.parameters - matrices)
    assert any("unheard" in note for note in plan.notes) == (bits is None)


@pytest.mark.parametrize("name", ["mlp.down_proj", "re:.*down_proj$"])
def test_modules_that_stay_as_they_were(tmp_path: Path, name: str) -> None:
    quantised = {"quant_method": "fp8", "modules_to_not_convert": [name]}
    plan = plan_memory(files(tmp_path, {**QWEN3_8B, "quantization_config": quantised}), "bfloat16")
    assert plan.matrices == 36 * (4096 * (2 * 4096 + 2 * 1024) + 2 * 4096 * 12288)


def test_what_fits_on_named_gpus_and_what_to_change(tmp_path: Path) -> None:
    plan = plan_memory(files(tmp_path, QWEN3_8B), "bfloat16")
    assert plan.cache == 2 * 36 * 8 * 128 * 2
    small, large = (parse_memory_size(size) for size in ("24GB", "80"))
    assert (small, large) == (24 << 30, 80 << 30)
    assert plan.longest_list(large - plan.weights) == plan.context_size == 40960
    assert plan.advise(large) == []
    longest = plan.longest_list(small - plan.weights)
    needed = plan.weights + longest * plan.per_token + plan.logits
    assert small - plan.weights >= needed - plan.weights > 0.88 * (small - plan.weights)
    (bits, size, method) = plan.advise(small)
    assert "4 bits per weight" in bits
    assert f"--context-size {longest // 1024 * 1024}" in size
    assert "--method" in method
    assert plan.batch_tokens((8 << 30) - plan.weights) == plan.longest_list((8 << 30) - plan.weights) == 0
    assert "smaller model" in plan.advise(8 << 30)[-1]
    doubled = plan_memory(files(tmp_path, QWEN3_8B), "float32")
    assert "--dtype bfloat16" in doubled.advise(small)[0]


def test_what_is_not_counted_is_said(tmp_path: Path) -> None:
    types = ["linear_attention", "linear_attention", "full_attention"]
    config = transformers.Qwen3NextConfig(**SMALL, layer_types=types, num_experts=4, num_experts_per_tok=2)
    recurrent, experts = plan_tokens(config, "bfloat16").notes
    assert "recurrent state of 2 layers" in recurrent
    assert "experts" in experts
    deberta = {"architectures": ["DebertaV2ForSequenceClassification"], "model_type": "deberta-v2", **SMALL}
    (attention,) = plan_memory(files(tmp_path, {**deberta, "num_attention_heads": 4}), "float32").notes
    assert "attention matrices" in attention
    own = {**SMOLLM2, "architectures": ["JinaForRanking"]}
    assert plan_memory(files(tmp_path, own), "float32").notes == ("the class JinaForRanking; LlamaModel is assumed",)


@pytest.mark.parametrize("size", ["24XB", "0", "-1", "", "1e3", "24 GB free"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(UsageError, match="Write --gpu 24GB"):
        parse_memory_size(size)


@pytest.mark.parametrize(
    ("lengths", "tokens", "sizes"),
    [
        ([], 100, []),
        ([90, 40, 30, 20, 20, 20, 20], 100, [1, 2, 4]),
        ([300, 50, 50], 100, [1, 2]),  # what does not fit is alone
        ([10] * 9, 1000, [4, 4, 1]),
        ([20, 30, 20], 60, [2, 1]),  # lengths with replies need not decrease
        ([10] * 9, None, [4, 4, 1]),
    ],
)
def test_batches_have_at_most_so_many_rows_and_padded_tokens(
    lengths: list[int], tokens: int | None, sizes: list[int]
) -> None:
    batches = list(split_into_batches(lengths, rows=4, tokens=tokens))
    assert [batch.stop - batch.start for batch in batches] == sizes
    assert [index for batch in batches for index in range(batch.start, batch.stop)] == list(range(len(lengths)))


@pytest.fixture
def free_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A mocked GPU; its free memory is ``free``."""
    state = {"free": 60 << 30, "unused": 0}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (state["free"], 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: state["unused"])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    return state


def test_tokens_per_batch_depend_on_the_free_memory(tmp_path: Path, free_gpu: dict[str, int]) -> None:
    plan = plan_memory(files(tmp_path, QWEN3_8B), "bfloat16")
    options = BackendOptions()
    tokens = choose_batch_tokens(options, "cuda:0", lambda: plan)
    assert tokens == plan.batch_tokens((60 << 30) - plan.weights)
    # 256 pairs of 512 tokens, or one list of 40,000
    assert tokens is not None
    assert 256 * 512 < tokens < 256 * 1024
    free_gpu.update(free=20 << 30, unused=40 << 30)  # memory that torch holds and does not use is free
    assert choose_batch_tokens(options, "cuda:0", lambda: plan) == tokens
    free_gpu.update(unused=0)
    assert choose_batch_tokens(options, "cuda:0", lambda: plan) == plan.batch_tokens((20 << 30) - plan.weights) < tokens
    free_gpu.update(free=1 << 30)
    assert choose_batch_tokens(options, "cuda:0", lambda: plan) == 1  # one prompt at a time
    # before the weights are loaded
    described: Any = SimpleNamespace(
        options=options, device="cuda:0", identity={"dtype": "bfloat16"}, files=ModelFiles(folder=tmp_path)
    )
    free_gpu.update(free=60 << 30)
    assert Hf.plan_batch_tokens(described) == tokens


@pytest.mark.parametrize(
    ("device", "options"), [("cpu", {}), ("cuda", {"batch_size": 7}), ("cuda", {"deterministic": True})]
)
def test_a_cpu_an_explicit_size_and_a_deterministic_run_have_no_limit_of_tokens(
    free_gpu: dict[str, int], device: str, options: dict[str, Any]
) -> None:
    def unused() -> Any:
        raise AssertionError

    assert choose_batch_tokens(BackendOptions(**options), device, unused) is None
    expected = {"cpu": 4, "cuda": options.get("batch_size", 1)}[device]
    assert Hf.choose_batch_size(BackendOptions(**options), device) == expected


def requests(lengths: list[int], **sampling: Any) -> list[Request]:
    texts = [chr(97 + index % 26) * length for index, length in enumerate(lengths)]
    return [
        Request(prompt=(Message("user", text),), sampling=Sampling(**{"max_tokens": 2, **sampling})) for text in texts
    ]


def test_short_prompts_share_a_batch_and_a_long_one_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hf = in_memory(make_model(), make_tokenizer())
    overhead = hf.tokens.count(requests([0])[0].prompt) + 2  # with two new tokens
    hf.set_batching(256, reuse=False, tokens=16 * (10 + overhead))
    sizes: list[int] = []
    run = hf._run

    def record(jobs: list[Any]) -> list[Reply]:
        sizes.append(len(jobs))
        return run(jobs)

    monkeypatch.setattr(hf, "_run", record)
    replies = hf.generate(requests([10] * 17 + [400]))
    assert sizes == [1, 16, 1]
    assert [reply.finish for reply in replies] == ["length"] * 18
    # The logits of each token of a likelihood need memory, too.
    sizes.clear()
    task = LikelihoodTask(continuations=("a" * 50,))
    scored = [Request(prompt=r.prompt, task=task, sampling=Sampling(max_tokens=0)) for r in requests([10] * 16)]
    assert all(len(reply.scores) == 1 for reply in hf.generate(scored))
    assert len(sizes) > 1


def test_batches_are_planned_reported_and_recorded_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gpu: dict[str, int]
) -> None:
    make_model().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr("rerank.lm.loading.pick_device", lambda asked: "cuda:0")
    free_gpu.update(free=4 << 30)
    backend: Any = open_model_backend(str(tmp_path), BackendOptions(dtype="bfloat16"), lazy=True)
    plan = plan_memory(ModelFiles(folder=tmp_path), "bfloat16")
    tokens = plan.batch_tokens((4 << 30) - plan.weights)
    assert describe_batch(backend) == f"at most 256 prompts, {tokens:,} tokens, 640,000 characters"
    flow = Flow.of(backend)
    assert (flow.block, flow.batch_size, flow.batch_tokens) == (128, 256, tokens)
    assert Flow.from_json(flow.to_json()) == flow
    assert not backend.is_loaded
    hf = in_memory(make_model(), make_tokenizer())
    flow.apply_to(hf)
    assert (hf.batch_size, hf.batch_tokens) == (256, tokens)
    assert describe_batch(in_memory(make_model(), make_tokenizer())) == "at most 4 prompts, 48,000 characters"
    Flow.from_json({"block": 128, "in_flight": 32, "batch_size": 16, "reuse": True}).apply_to(hf)  # recorded before
    assert (hf.batch_size, hf.batch_tokens) == (16, None)


def test_pairs_of_a_cross_encoder_are_batched_by_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = CrossEncoder.__new__(CrossEncoder)
    backend._limit = BatchLimit()
    batches: list[list[str]] = []

    def predict(pairs: Any, **options: Any) -> Any:
        batches.append([passage for _, passage in pairs])
        return torch.tensor([[float(len(passage))] for _, passage in pairs]).numpy()

    backend.model = SimpleNamespace(predict=predict)
    backend.tokens = SimpleNamespace(context_size=512, pairs=lambda prompt: [len(m.content) for m in prompt[1:]])
    texts = ["a" * length for length in (3, 90, 20, 30, 20)]
    prompt = tuple(Message("user", text) for text in ("q", *texts))
    for tokens, rows, sizes in ((100, 256, [1, 3, 1]), (None, 2, [2, 2, 1])):
        batches.clear()
        backend.batch_tokens, backend.pairs_per_batch = tokens, rows
        assert backend.score(prompt).scores == (3, 90, 20, 30, 20)
        assert [len(batch) for batch in batches] == sizes
    backend.batch_tokens = 100
    backend.set_batching(1, reuse=False)  # a run that was recorded before
    assert (backend.batch_tokens, backend.pairs_per_batch) == (None, 32)


def test_what_a_plan_does_not_know_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    assert any(
        "config.json does not state" in note for note in plan_memory(ModelFiles(folder=tmp_path), "float32").notes
    )
    (tmp_path / "config.json").write_text(
        '{"model_type": "t5", "d_model": 16, "architectures": ["T5ForConditionalGeneration"]}'
    )
    (note,) = plan_memory(ModelFiles(folder=tmp_path), "float32").notes
    assert "square of the length" in note
