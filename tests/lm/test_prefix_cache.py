"""Log-probabilities on top of cached prefixes: those without a cache, and the same bits whatever is cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.lm.decoding import DecodingRow, decode_permutations
from rerank.lm.jobs import Job
from rerank.lm.local_tasks import plan_prefixes
from rerank.lm.log_likelihood import compute_log_likelihoods
from rerank.lm.permutation_grammar import PermutationGrammar
from rerank.lm.prefix_cache import CachedPrefix, PrefixCache, round_pass_length, supports_prefixes
from rerank.tasks import Sampling
from tests.backends.conftest import make_model
from tests.lm.prefixed_jobs import make_job, piece

LETTERS = [[65], [66], [67]]
QUERY_TEXT = [[10, 11, 12, 13, 14]]
ANYTHING = [[3, 4, 5], [3, 7], [8], [], [6, 6, 6, 6]]
#: Prefixes and remainders of fewer and more tokens than a decoding step (16) and a block of queries (128).
INSTRUCTION, QUERY = piece(1, 30), piece(2, 5)
A, B, C = piece(50, 60), piece(60, 140), piece(70, 12)


def pair(first: Sequence[int], second: Sequence[int], suffix: int = 12) -> list[Sequence[int]]:
    return [INSTRUCTION, QUERY, first, second, piece(3, suffix)]


PAIRS = [make_job(pair(*passages), 2) for passages in ((A, B), (B, A), (A, C), (C, A))]
MIXED = [*PAIRS[:2], make_job([piece(9, 20)], 0), make_job([INSTRUCTION, QUERY, C, []], 1)]
#: (attention, dtype): the packed rows of the CPU's own kernel, and padded rows for everything else.
KERNELS = [("sdpa", "float32"), ("sdpa", "bfloat16"), ("eager", "float32"), ("eager", "bfloat16")]


def make(attention: str = "sdpa", dtype: str = "float32") -> Any:
    model = make_model().to(getattr(torch, dtype))
    model.set_attn_implementation(attention)
    return model


def score(cache: PrefixCache, jobs: Sequence[Job], texts: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    prompts = [job.prompt for job in jobs]
    prefixes = cache.load(prompts, plan_prefixes(jobs))
    return compute_log_likelihoods(cache._model, prompts, texts, prefixes=prefixes)


def largest_difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    assert [len(row) for row in one] == [len(row) for row in other]
    return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("texts", [LETTERS, QUERY_TEXT, ANYTHING])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("jobs", [PAIRS, MIXED])
def test_float32_scores_are_those_without_a_cache(attention: str, jobs: list[Job], texts: list[list[int]]) -> None:
    model = make(attention)
    cache = PrefixCache(model)
    expected = compute_log_likelihoods(model, [job.prompt for job in jobs], [texts] * len(jobs))
    for _ in range(2):
        assert largest_difference(score(cache, jobs, [texts] * len(jobs)), expected) < 1e-4


@pytest.mark.parametrize(("attention", "dtype"), KERNELS)
def test_a_warm_a_cold_and_no_store_give_the_same_bits(attention: str, dtype: str) -> None:
    """What other batches left in the store, in any order, changes nothing."""
    model = make(attention, dtype)
    batches = [PAIRS[:2], PAIRS[2:], MIXED]
    texts = [LETTERS, QUERY_TEXT, ANYTHING, LETTERS]
    cold = [score(PrefixCache(model), batch, texts[: len(batch)]) for batch in batches]
    without = PrefixCache(model, 0)
    small = PrefixCache(model, 100_000)
    warm = PrefixCache(model)
    for job in reversed(PAIRS):  # each prefix after others than in the batches
        score(warm, [job], [LETTERS])
    for cache in (without, small, warm):
        assert [score(cache, batch, texts[: len(batch)]) for batch in batches] == cold


def test_prefixes_are_computed_once_and_alone() -> None:
    model = make()
    cache = PrefixCache(model)
    shapes: list[tuple[int, ...]] = []
    model.model.embed_tokens.register_forward_hook(lambda _, inputs, out: shapes.append(tuple(out.shape[:2])))
    score(cache, PAIRS[:2], [LETTERS] * 2)
    # Instruction, query, one first passage each, and the remainders of both prompts as one sequence; rounded up.
    assert shapes == [(1, 32), (1, 16), (1, 64), (1, 144), (1, 140 + 12 + 60 + 12)]
    shapes.clear()
    score(cache, PAIRS, [LETTERS] * 4)
    assert shapes == [(1, 16), (1, 140 + 12 + 60 + 12 + 12 + 12 + 60 + 12)]


def test_tokens_that_were_not_computed_for_a_prompt_are_counted() -> None:
    cache = PrefixCache(make())
    prompts, plan = [job.prompt for job in PAIRS], plan_prefixes(PAIRS)
    assert [prefix.length for prefix in cache.load(prompts, plan)] == [95, 175, 95, 47]
    assert [prefix.reused for prefix in cache.load(prompts, plan)] == [95, 175, 95, 47]
    cache.clear()
    assert [prefix.reused for prefix in cache.load(prompts, plan)] == [0, 35, 95, 35]


def test_the_same_tokens_in_other_pieces_are_another_prefix() -> None:
    """They may differ in the last bits."""
    cache = PrefixCache(make())
    (whole,) = cache.load([PAIRS[0].prompt], [(95,)])
    (pieces,) = cache.load([PAIRS[0].prompt], [(30, 95)])
    assert (whole.reused, pieces.reused) == (0, 0)
    assert [len(prefix.segments) for prefix in (whole, pieces)] == [1, 2]


def uses(cache: PrefixCache, tokens: Sequence[int], length: int = 16) -> list[bool]:
    """Load one prefix per token, which consists of this token only; return which of them the cache contained."""
    return [cache.load([[token] * length], [(length,)])[0].reused == length for token in tokens]


def limited(prefixes: float) -> PrefixCache:
    """A cache that has room for a number of prefixes of 16 tokens."""
    model = make()
    (prefix,) = PrefixCache(model).load([[0] * 16], [(16,)])
    return PrefixCache(model, int(prefixes * prefix.segments[0].size))


def test_the_least_recently_used_segments_are_dropped() -> None:
    cache = limited(3.9)
    assert uses(cache, [1, 2, 3, 1]) == [False, False, False, True]
    assert uses(cache, [4, 1, 3, 4, 2]) == [False, True, True, True, False]
    assert uses(cache, [3, 4, 2, 1]) == [True, True, True, False]


def test_prefixes_that_fill_the_limit_are_kept() -> None:
    cache = limited(4)
    uses(cache, [1, 2, 3, 4])
    assert all(uses(cache, [1, 2, 3, 4] * 3))
    assert uses(cache, [5], length=64) == [False]
    assert uses(cache, [5], length=64) == [True]  # as large as the limit, so it is now the only one
    assert uses(cache, [1]) == [False]


def test_a_segment_larger_than_the_limit_drops_nothing() -> None:
    cache = limited(4)
    uses(cache, [1, 2, 3, 4])
    assert uses(cache, [5, 5], length=65) == [False, False]
    assert all(uses(cache, [1, 2, 3, 4]))


def test_prefixes_of_other_weights_are_dropped() -> None:
    """A training changes the model under the cache."""
    model = make()
    cache = PrefixCache(model)
    before = score(cache, PAIRS, [LETTERS] * 4)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    after = score(cache, PAIRS, [LETTERS] * 4)
    assert after == score(PrefixCache(model), PAIRS, [LETTERS] * 4)
    assert largest_difference(before, after) > 0.01
    model.model.layers[0].mlp.up_proj.weight.data = torch.zeros(64, 32)
    assert score(cache, PAIRS, [LETTERS] * 4) == score(PrefixCache(model), PAIRS, [LETTERS] * 4)


def test_the_model_is_left_as_it_was() -> None:
    model = make()
    score(PrefixCache(model), PAIRS, [LETTERS] * 4)
    assert model.config._attn_implementation == "sdpa"
    assert "forward" not in vars(model.lm_head)


def test_nothing_is_planned_nothing_is_computed() -> None:
    cache = PrefixCache(make())
    assert cache.load([[1, 2]], [()]) == [CachedPrefix()]
    assert cache.load([], []) == []


@pytest.mark.parametrize(
    ("kind", "settings", "supported"),
    [
        ("Llama", {}, True),
        ("Qwen3", {}, True),
        ("Mistral", {}, True),
        ("Mistral", {"sliding_window": 8}, False),
        ("Gemma2", {"sliding_window": 8}, False),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}, False),
        ("Mamba", {"num_hidden_layers": 1}, False),
    ],
)
def test_only_caches_that_can_be_cropped_are_reused(kind: str, settings: dict[str, Any], supported: bool) -> None:
    assert supports_prefixes(make_model(kind, **settings)) is supported


def test_forward_passes_have_few_lengths() -> None:
    """The matrix library keeps code for each of them."""
    lengths = {tokens: round_pass_length(tokens) for tokens in range(1, 8193)}
    assert all(0 <= rounded - tokens < max(16, tokens / 31) for tokens, rounded in lengths.items())
    assert len(set(lengths.values())) <= 160


GREEDY = Sampling(max_tokens=1)
JOBS = [
    make_job([piece(1, 90), piece(2, 7), *(piece(40 + 10 * number, length) for number in range(4)), piece(3, 15)], 4)
    for length in (10, 45)
] + [make_job([piece(9, 33)], 0)]


def grammar(size: int) -> PermutationGrammar:
    """Identifiers ``A0``, ``A1``, ..., after ``>``; the first token is forced."""
    return PermutationGrammar(
        [(65, 48 + number) for number in range(size)], [(62, 65, 48 + number) for number in range(size)], size
    )


def decode(model: Any, cache: PrefixCache | None, sizes: Sequence[int] = (4, 4, 3)) -> list[DecodingRow]:
    prompts, grammars = [job.prompt for job in JOBS], [grammar(size) for size in sizes]
    prefixes = cache.load(prompts, plan_prefixes(JOBS)) if cache else ()
    return decode_permutations(model, prompts, grammars, [GREEDY] * 3, [0] * 3, prefixes=prefixes)


def figures(rows: Sequence[DecodingRow]) -> list[tuple[list[int], list[float]]]:
    return [(row.tokens, row.log_probs) for row in rows]


@pytest.mark.parametrize("sizes", [(4, 4, 3), (1, 4, 3), (4, 4, 1)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_float32_permutations_are_those_without_a_cache(attention: str, sizes: tuple[int, ...]) -> None:
    """A permutation of one identifier is forced, so that its row has nothing to process."""
    model = make(attention)
    found, expected = decode(model, PrefixCache(model), sizes), decode(model, None, sizes)
    for row, wanted in zip(found, expected, strict=True):
        assert (row.tokens, row.steps) == (wanted.tokens, wanted.steps)
        assert row.log_probs == pytest.approx(wanted.log_probs, abs=1e-4)
    assert len({tuple(row.tokens) for row in found}) > 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_warm_a_cold_and_no_cache_give_the_same_permutations(attention: str, dtype: str) -> None:
    model = make(attention, dtype)
    cold = decode(model, PrefixCache(model))
    assert [row.prefix.reused for row in cold] == [0, 97, 0]
    cache = PrefixCache(model)
    for job in reversed(JOBS):  # each prefix after others than in the batch
        cache.load([job.prompt], plan_prefixes([job]))
    warm, without = decode(model, cache), decode(model, PrefixCache(model, 0))
    assert [row.prefix.reused for row in warm] == [107, 142, 0]
    assert figures(warm) == figures(cold) == figures(without)
