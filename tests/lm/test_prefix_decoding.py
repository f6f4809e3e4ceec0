"""Permutations on top of cached prefixes: those without a cache, and the same bits whatever is cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from rerank.lm.local_tasks import plan_prefixes
from rerank.lm.permutation_decoding import DecodingRow, decode_permutations
from rerank.lm.permutation_grammar import PermutationGrammar
from rerank.lm.prefix_cache import PrefixCache
from rerank.tasks import Sampling
from tests.lm.prefixed_jobs import make_job, piece

GREEDY = Sampling(max_tokens=1)
INSTRUCTION, QUERY = piece(1, 90), piece(2, 7)
JOBS = [
    make_job([INSTRUCTION, QUERY, *(piece(40 + 10 * number, length) for number in range(4)), piece(3, 15)], 4)
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


@pytest.fixture
def make(tiny_model: Callable[..., Any]) -> Callable[[str, str], Any]:
    def build(attention: str = "sdpa", dtype: str = "float32") -> Any:
        model = tiny_model().to(getattr(torch, dtype))
        model.set_attn_implementation(attention)
        return model

    return build


@pytest.mark.parametrize("sizes", [(4, 4, 3), (1, 4, 3), (4, 4, 1)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_float32_permutations_are_those_without_a_cache(
    make: Callable[..., Any], attention: str, sizes: tuple[int, ...]
) -> None:
    """A permutation of one identifier is forced, so that its row has nothing to process."""
    model = make(attention)
    found, expected = decode(model, PrefixCache(model), sizes), decode(model, None, sizes)
    for row, wanted in zip(found, expected, strict=True):
        assert (row.tokens, row.steps) == (wanted.tokens, wanted.steps)
        assert row.log_probs == pytest.approx(wanted.log_probs, abs=1e-4)
    assert len({tuple(row.tokens) for row in found}) > 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_warm_a_cold_and_no_store_give_the_same_bits(make: Callable[..., Any], attention: str, dtype: str) -> None:
    model = make(attention, dtype)
    cold = decode(model, PrefixCache(model))
    assert [row.prefix.reused for row in cold] == [0, 97, 0]
    cache = PrefixCache(model)
    for job in reversed(JOBS):  # each prefix after others than in the batch
        cache.load([job.prompt], plan_prefixes([job]))
    warm, without = decode(model, cache), decode(model, PrefixCache(model, 0))
    assert [row.prefix.reused for row in warm] == [107, 142, 0]
    assert figures(warm) == figures(cold) == figures(without)
