"""The fast path on a CPU against plain transformers: same tokens in float32, eager's numbers in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.lm import grouped_attention
from rerank.lm.decoding import decode_continuations
from rerank.lm.forward_pass import PreallocatedLayer, make_kv_cache
from rerank.lm.loading import quiet_transformers
from rerank.tasks import Sampling
from tests.backends.conftest import make_model

KINDS = ("Llama", "Mistral", "Qwen2", "Qwen3")


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (length,), generator=generator).tolist() for length in lengths]


def plain_greedy(model: Any, rows: Sequence[Sequence[int]], new: int) -> list[list[int]]:
    """Row by row, without padding, without a cache, by the definition of greedy decoding."""
    answers = []
    for row in rows:
        ids = list(row)
        for _ in range(new):
            with torch.inference_mode():
                ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        answers.append(ids[len(row) :])
    return answers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [(150,), (40, 7, 1, 40)])
def test_float32_gives_the_tokens_of_plain_greedy_decoding(kind: str, lengths: tuple[int, ...]) -> None:
    model = make_model(kind, eos_token_id=None)
    model.generation_config.eos_token_id = None
    assert grouped_attention.supports_grouped_attention(model)
    rows = prompts(*lengths)
    with quiet_transformers():
        fast = decode_continuations(model, rows, [Sampling(max_tokens=10)] * len(rows), [0] * len(rows))
    assert fast == plain_greedy(model, rows, 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("amx", [True, False])
def test_bfloat16_gives_the_numbers_of_eager_attention(monkeypatch: pytest.MonkeyPatch, kind: str, amx: bool) -> None:
    monkeypatch.setattr(grouped_attention, "processor_flags", lambda: frozenset({"amx_bf16"} if amx else set()))
    model = make_model(kind, initializer_range=0.1).to(torch.bfloat16)
    ids = torch.tensor(prompts(300))
    logits = []
    for name in ("eager", grouped_attention.NAME):
        model.set_attn_implementation(name)
        with torch.inference_mode():
            logits.append(model(ids).logits.float())
    assert torch.allclose(logits[0], logits[1], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("heads", [(4, 1), (4, 2), (4, 4)])
@pytest.mark.parametrize("length", [1, 127, 128, 129, 300])
@pytest.mark.parametrize("width", [64, 200, 1024])
def test_blocks_equal_the_formula(
    heads: tuple[int, int], length: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped_attention, "_WIDTH", width)
    torch.manual_seed(0)
    query = torch.randn(2, heads[0], length, 8)
    key, value = torch.randn(2, heads[1], length, 8), torch.randn(2, heads[1], length, 8)
    repeat = heads[0] // heads[1]
    scores = query @ key.repeat_interleave(repeat, 1).transpose(2, 3) * 0.3
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    expected = scores.softmax(-1) @ value.repeat_interleave(repeat, 1)
    assert torch.allclose(grouped_attention._causal_blocks(query, key, value, 0.3), expected, atol=1e-5)
    assert torch.allclose(grouped_attention._causal_kernel(query, key, value, 0.3), expected, atol=1e-5)
    last = (slice(None), slice(None), slice(length // 3, None))  # a later piece, its keys those of all before it too
    for causal in (grouped_attention._causal_blocks, grouped_attention._causal_kernel):
        assert torch.allclose(causal(query[last], key, value, 0.3), expected[last], atol=1e-5)


def test_only_plain_models_take_the_fast_path() -> None:
    assert not grouped_attention.supports_grouped_attention(make_model("Mistral", sliding_window=16))
    assert not grouped_attention.supports_grouped_attention(
        make_model("Qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=1)
    )
    assert not grouped_attention.supports_grouped_attention(
        make_model("Gemma2", sliding_window=16, query_pre_attn_scalar=8)
    )
    eager = make_model()
    eager.set_attn_implementation("eager")
    assert not grouped_attention.supports_grouped_attention(eager)


def test_a_model_with_sliding_layers_is_decoded_by_transformers_alone() -> None:
    model = make_model("Mistral", sliding_window=16, eos_token_id=None)
    model.generation_config.eos_token_id = None
    rows = prompts(60, 50)
    with quiet_transformers():
        assert decode_continuations(model, rows, [Sampling(max_tokens=8)] * 2, [0, 0]) == plain_greedy(model, rows, 8)


@pytest.mark.parametrize("first", [30, 16])
def test_more_tokens_on_top_of_a_cache(first: int) -> None:
    """A few of them by transformers' own mask, many as a piece of a long prompt."""
    model = make_model()
    ids = torch.tensor(prompts(40))
    with torch.inference_mode():
        expected = model(ids).logits
        model.set_attn_implementation(grouped_attention.NAME)
        cache = make_kv_cache(model.config, 64)
        one = model(ids[:, :first], cache=cache, use_cache=True).logits
        two = model(ids[:, first:], cache=cache, use_cache=True).logits
    assert torch.allclose(torch.cat([one, two], 1), expected, atol=1e-4)


def test_the_cache_writes_in_place_and_grows() -> None:
    layer = PreallocatedLayer(4)
    states = torch.arange(7.0).view(1, 1, 7, 1)
    keys, values = layer.update(states[:, :, :3], -states[:, :, :3])
    room = keys.data_ptr()
    keys, values = layer.update(states[:, :, 3:4], -states[:, :, 3:4])
    assert keys.data_ptr() == room
    keys, values = layer.update(states[:, :, 4:], -states[:, :, 4:])
    assert keys.data_ptr() != room
    assert torch.equal(keys, states)
    assert torch.equal(values, -states)
    assert layer.get_seq_length() == 7


def test_the_cache_survives_a_batch_that_is_reordered_and_a_reset() -> None:
    layer = PreallocatedLayer(8)
    states = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    layer.update(states, states)
    layer.reorder_cache(torch.LongTensor([1, 0]))
    keys, _ = layer.update(states, states)
    assert keys.flatten().tolist() == [2.0, 1.0, 1.0, 2.0]
    layer.reset()
    assert layer.get_seq_length() == 0
    keys, _ = layer.update(states, states)
    assert torch.equal(keys, states)
