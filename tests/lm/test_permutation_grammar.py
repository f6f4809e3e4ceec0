"""The grammar of permutations, checked on whole texts; no model."""

from __future__ import annotations

import random

import pytest

from rerank.errors import UsageError
from rerank.lm.permutation_grammar import PermutationGrammar, tokenize_identifiers
from rerank.lm.tokenizers import tokenize_text_after
from tests.raising import raises


def encode(text: str) -> tuple[int, ...]:
    """Return one token per character."""
    return tuple(map(ord, text))


def make_grammar(count: int, size: int, **more: str) -> PermutationGrammar:
    items = [f"[{number}]" for number in range(1, size + 1)]
    return PermutationGrammar(*tokenize_identifiers(encode, items, " > ", **more), count)


def walk(grammar: PermutationGrammar, rng: random.Random) -> tuple[str, list[int], int]:
    """Generate a permutation at random; return its text, its order and the number of choices."""
    state, tokens, choices = grammar.start(), [], 0
    while not state.is_complete:
        tokens += state.push_forced()
        if not (allowed := state.allowed()):
            break
        assert len(allowed) > 1
        assert list(allowed) == sorted(allowed)
        choices += 1
        token = rng.choice(allowed)
        state.push(token)
        tokens.append(token)
    assert state.allowed() == ()
    return "".join(map(chr, tokens)), state.order, choices


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 2), (2, 2), (9, 9), (12, 12), (100, 100), (3, 100), (10, 11)])
def test_a_generated_permutation_has_no_repeats(count: int, size: int) -> None:
    for seed in range(20):
        text, order, _ = walk(make_grammar(count, size), random.Random(seed))
        assert text == " > ".join(f"[{at + 1}]" for at in order)
        assert len(set(order)) == len(order) == count


def test_all_permutations_can_be_generated() -> None:
    seen = {tuple(walk(make_grammar(3, 3), random.Random(seed))[1]) for seed in range(200)}
    assert len(seen) == 6


def test_forced_tokens_ask_for_no_choice() -> None:
    assert walk(make_grammar(1, 1), random.Random(0))[2] == 0
    assert walk(make_grammar(2, 2), random.Random(0))[2] == 1
    # of a hundred numbers, one digit at a time: far fewer choices than the 491 characters
    text, _, choices = walk(make_grammar(100, 100), random.Random(0))
    assert len(text) > 480
    assert choices <= 200


def test_the_reply_prefix_is_not_generated_again() -> None:
    text, order, _ = walk(make_grammar(3, 3, before="answer: [", prefix="["), random.Random(1))
    assert "[" + text == " > ".join(f"[{at + 1}]" for at in order)


def test_a_reply_prefix_of_no_identifier_is_refused() -> None:
    with raises(UsageError, "'Order: '", "[1]"):
        make_grammar(2, 2, before="Order: ", prefix="Order: ")


def test_tokens_that_are_not_allowed_are_refused() -> None:
    state = make_grammar(2, 2).start()
    with raises(ValueError, ord("x")):
        state.push(ord("x"))


@pytest.mark.parametrize("items", [[(1,), (1, 2)], [(1, 2), (1,)], [(1,), (1,)], [(1,), ()]])
def test_ambiguous_identifiers_are_refused(items: list[tuple[int, ...]]) -> None:
    with pytest.raises(UsageError):
        PermutationGrammar(items, items, 1)


def test_a_token_across_the_boundary_is_avoided() -> None:
    def merging(text: str) -> tuple[int, ...]:
        """Return tokens of a tokenizer that merges ``] >``."""
        return tuple(map(ord, text.replace("] >", "#")))

    assert tokenize_text_after(merging, "[1]", " > [2]") == encode(" > [2]")
    assert tokenize_text_after(encode, "[1]", " > [2]") == encode(" > [2]")
    assert tokenize_text_after(encode, "", "[2]") == encode("[2]")
