"""What accelerators compute, on a CPU that passes for one, and on devices without data: numbers, kernels, transfers."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch.nn.attention.bias import CausalBias

from rerank.lm import decoding, grouped_attention, icr_scoring, local_tasks, prefix_cache
from rerank.lm.decoding import decode_continuations
from rerank.lm.forward_pass import make_kv_cache
from rerank.lm.loading import quiet_transformers
from rerank.lm.local_tasks import plan_prefixes
from rerank.lm.log_likelihood import compute_log_likelihoods
from rerank.lm.prefix_cache import PrefixCache, reuse_pays
from rerank.lm.tokenizers import PromptSpans
from rerank.tasks import Sampling
from tests.backends.conftest import in_memory, make_model, make_tokenizer
from tests.lm import test_icr_scoring as icr
from tests.lm.prefixed_jobs import make_job, piece
from tests.lm.test_prefix_cache import ANYTHING, LETTERS, MIXED, PAIRS, QUERY_TEXT, decode, figures, largest_difference

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kernel_counts.py"


def pass_for_accelerator(patch: pytest.MonkeyPatch, long: int) -> None:
    """Take the paths of an accelerator; rows of ``long`` tokens and more have an attention call of their own."""
    for module in (decoding, grouped_attention, local_tasks, prefix_cache):
        patch.setattr(module, "on_cpu", lambda _: False)
    patch.setattr(grouped_attention, "_LONG", long)


@pytest.fixture(params=[1, 100, 1024])
def accelerator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        pass_for_accelerator(patch, request.param)
        yield patch


@pytest.mark.parametrize("texts", [LETTERS, QUERY_TEXT, ANYTHING])
@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_likelihoods_equal_those_of_a_cpu(kind: str, texts: list[list[int]], accelerator: pytest.MonkeyPatch) -> None:
    model = make_model(kind)
    for jobs in (PAIRS, MIXED, PAIRS[:1]):
        prompts, all_texts = [job.prompt for job in jobs], [texts] * len(jobs)
        prefixes = PrefixCache(model).load(prompts, plan_prefixes(jobs))
        found = [compute_log_likelihoods(model, prompts, all_texts, prefixes=given) for given in ((), prefixes)]
        with pytest.MonkeyPatch.context() as patch:
            for module in (grouped_attention, prefix_cache):
                patch.setattr(module, "on_cpu", lambda _: True)
            expected = compute_log_likelihoods(model, prompts, all_texts)
        scale = max(abs(value) for row in expected for value in row)
        assert all(largest_difference(scores, expected) <= 1e-5 * scale for scores in found)


@pytest.mark.parametrize("sizes", [(4, 4, 3), (1, 4, 3)])
def test_permutations_equal_those_of_a_cpu(sizes: tuple[int, ...]) -> None:
    model = make_model()
    expected = decode(model, None, sizes)
    for long in (1, 50, 1024):
        with pytest.MonkeyPatch.context() as patch:
            pass_for_accelerator(patch, long)
            for cache in (None, PrefixCache(model)):
                for row, wanted in zip(figures(decode(model, cache, sizes)), figures(expected), strict=True):
                    assert row[0] == wanted[0]
                    assert row[1] == pytest.approx(wanted[1], abs=1e-5, rel=1e-5)


def test_generated_tokens_equal_those_of_a_cpu() -> None:
    model = make_model(eos_token_id=None)
    model.generation_config.eos_token_id = None
    rows, samplings = [piece(1, 40), piece(2, 7), piece(3, 1)], [Sampling(max_tokens=8, temperature=0.7)] * 3
    with quiet_transformers():
        expected = decode_continuations(model, rows, samplings, [1, 2, 3])
        for long in (1, 1024):
            with pytest.MonkeyPatch.context() as patch:
                pass_for_accelerator(patch, long)
                assert decode_continuations(model, rows, samplings, [1, 2, 3]) == expected


def test_the_cache_of_generate_is_preallocated_for_every_attention_function(accelerator: pytest.MonkeyPatch) -> None:
    model = make_model()
    model.set_attn_implementation("eager")
    made: list[int] = []

    def make(config: Any, capacity: int) -> Any:
        made.append(capacity)
        return make_kv_cache(config, capacity)

    accelerator.setattr(decoding, "make_kv_cache", make)
    with quiet_transformers():
        decode_continuations(model, [piece(1, 30)], [Sampling(max_tokens=4)], [0])
    assert made == [34]


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Gemma2"])
@pytest.mark.parametrize("more", [{}, {"heads": ((1, 1), (0, 3)), "weights": (0.25, 2.0)}, {"per_head": True}])
def test_attention_scores_equal_those_of_a_cpu(name: str, more: dict[str, Any]) -> None:
    hf = in_memory(make_model(name, **icr.KINDS[name]), make_tokenizer())
    expected = icr.ask(hf, icr.task(**more))
    with pytest.MonkeyPatch.context() as patch:
        pass_for_accelerator(patch, 1024)
        for block in (64, 1 << 14):
            patch.setattr(icr_scoring, "_ACCELERATOR_PREFILL_BLOCK", block)
            assert icr.ask(hf, icr.task(**more)) == pytest.approx(expected, abs=1e-5)


class Spy:
    """It records the kind of each call of fused attention, and whether keys were copied out of the cache."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[int, bool, bool, int]] = []  # queries, causal without a mask, grouped heads, key heads
        self._plain = torch.nn.functional.scaled_dot_product_attention
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", self)

    def __call__(self, query: Any, key: Any, value: Any, attn_mask: Any = None, **more: Any) -> Any:
        causal = isinstance(attn_mask, CausalBias) or (attn_mask is None and more.get("is_causal", False))
        self.calls.append((query.shape[2], causal, more.get("enable_gqa", False), key.shape[1]))
        with pytest.MonkeyPatch.context() as patch:  # a CausalBias looks for torch's own function
            patch.setattr(torch.nn.functional, "scaled_dot_product_attention", self._plain)
            return self._plain(query, key, value, attn_mask, **more)


@pytest.mark.parametrize("prefix", [0, 30, 150])
def test_prefills_are_causal_with_grouped_heads(prefix: int, accelerator: pytest.MonkeyPatch) -> None:
    """Also on top of a prefix, short or long, where transformers makes a mask and copies keys and values."""
    model = make_model()
    prompt = piece(1, 200)
    prefixes = PrefixCache(model).load([prompt], [(prefix,)]) if prefix else ()
    spy = Spy(accelerator)
    compute_log_likelihoods(model, [prompt], [LETTERS], prefixes=prefixes)
    assert len(spy.calls) == 2
    assert all(causal and grouped and heads == 2 for _, causal, grouped, heads in spy.calls)


def test_keys_are_copied_where_no_kerneltakes_grouped_heads(accelerator: pytest.MonkeyPatch) -> None:
    """Such as in float32 on CUDA, where torch would store all scores."""
    accelerator.setattr(grouped_attention, "takes_grouped_heads", lambda *_: False)
    spy = Spy(accelerator)
    query, key, value = (torch.randn(1, heads, 60, 8) for heads in (4, 2, 2))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    for length in (60, 40, 20):
        found = grouped_attention._causal_kernel(query[:, :, -length:], key, value, 8**-0.5)
        assert torch.allclose(found, expected[:, :, -length:], atol=1e-5)
    assert [heads for *_, heads in spy.calls] == [2, 4, 4, 4]


def test_decoding_steps_copy_no_keys(accelerator: pytest.MonkeyPatch) -> None:
    spy = Spy(accelerator)
    decode(make_model(), None)
    steps = [call for call in spy.calls if call[0] < 30]
    assert steps
    assert {heads for *_, heads in steps} == {2}


def test_prefixes_of_a_few_tokens_have_no_pass_of_their_own_on_an_accelerator() -> None:
    pieces = [piece(1, 5), piece(2, 60), piece(3, 10), *(piece(100 + n, 50) for n in range(20)), piece(4, 20)]
    job = make_job(pieces, 20)
    assert plan_prefixes([job]) == [(5, 65, 75)]
    assert plan_prefixes([job], on_accelerator=True) == [(65,)]
    # Two windows that share a passage: one saved pass over 50 tokens costs an accelerator more than it saves.
    pair = [[*pieces[:4], *(piece(200 + n, 50) for n in range(at, at + 19)), piece(4, 20)] for at in (0, 19)]
    jobs = [make_job(pieces, 20) for pieces in pair]
    assert [ends[-1] for ends in plan_prefixes(jobs)] == [125, 125]
    assert plan_prefixes(jobs, on_accelerator=True) == [(65,)] * 2


@pytest.fixture(scope="module")
def counts() -> Any:
    spec = importlib.util.spec_from_file_location("kernel_counts", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_prefix_is_reused_if_it_saves_more_than_the_mask_costs(counts: Any) -> None:
    model = counts.make_language_model()
    assert reuse_pays(model, [9400], [100])  # flash attention takes it
    model.set_attn_implementation("eager")
    assert not reuse_pays(model, [9400], [100])
    assert reuse_pays(model, [9400], [9000])
    assert reuse_pays(model, [200] * 16, [64] * 16)
    assert reuse_pays(model, [9400, 9000], [100, 100])  # padding needs a mask anyway
    assert reuse_pays(make_model(), [9400], [100])


#: Kernels and transfers of a model with two layers; one with 32 has 16 times the kernels of attention weights.
CEILINGS: dict[tuple[str, ...], dict[str, int]] = {
    ("icr",): {"kernels": 60, "transfers": 1},
    ("icr", "list"): {"kernels": 365, "transfers": 2},
    ("fullrank_prefill", "list"): {"kernels": 108, "transfers": 1},
    ("fullrank_prefill", "prefix"): {"kernels": 133, "transfers": 2},
    ("fullrank_prefill", "batch"): {"kernels": 173, "transfers": 3},
    ("fullrank_step",): {"kernels": 119, "transfers": 1},
    ("fullrank_batch_step",): {"kernels": 126, "transfers": 2},
    ("likelihood",): {"kernels": 1236, "transfers": 14},
    ("logits",): {"kernels": 122, "transfers": 2},
    ("cross_encoder",): {"kernels": 472, "transfers": 8},
}


def test_kernels_and_transfers_stay_few(counts: Any) -> None:
    with quiet_transformers():
        found = counts.count_all(counts.make_language_model(2))
    assert found["flash_possible"]
    assert found["clone_bytes_per_step"] == found["fullrank_step"]["clone_bytes"] == 0
    assert found["prefill"]["batch"] == {"causal, grouped heads": 2 * 16}
    assert found["icr"]["kernels"] * 16 <= 1500
    for names, ceiling in CEILINGS.items():
        part = found
        for name in names:
            part = part[name]
        for what, most in ceiling.items():
            assert part[what] < 1.1 * most, (names, what)


def test_attention_is_read_from_layers_on_several_devices(counts: Any) -> None:
    """As with --device-map auto: a CPU has the first layers, and a device without data the others."""
    hooks: Any = importlib.import_module("accelerate.hooks")

    class OneDevice(counts.Counts):  # type: ignore[misc]
        """Operations without data do not check that their arguments are on one device."""

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            devices = {value.device for value in counts._tensors(args) if value.ndim}
            assert len(devices) <= 1 or function.overloadpacket.__name__ in ("copy_", "index", "index_put_"), function
            return super().__torch_dispatch__(function, types, args, kwargs)

    prompt = PromptSpans(ids=tuple(piece(1, 60)), spans=(slice(5, 20), slice(20, 40)), tail=50)
    null = PromptSpans(ids=(*prompt.ids[:52], 7), spans=prompt.spans, tail=50)
    model = make_model(num_hidden_layers=4)
    for layer in model.model.layers[2:]:
        hooks.add_hook_to_module(layer.to("meta"), hooks.AlignDevicesHook(execution_device="meta"))
    for more in ({}, {"heads": ((3, 1), (0, 2))}, {"per_head": True}):
        with OneDevice(0, False):
            results = icr_scoring._read_attention(model, [prompt, null], icr.task(**more))
        assert all(result.device.type == "cpu" and result.abs().sum() > 0 for result in results)
