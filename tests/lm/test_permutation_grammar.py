"""The grammar of chains, against a check of whole texts; no model."""

from __future__ import annotations

import random

import pytest

from rerank.errors import UsageError
from rerank.lm.permutation_grammar import Chain, behind, pieces


def encode(text: str) -> tuple[int, ...]:
    """One token a character."""
    return tuple(map(ord, text))


def chain(count: int, size: int, **more: str) -> Chain:
    items = [f"[{number}]" for number in range(1, size + 1)]
    return Chain(*pieces(encode, items, " > ", **more), count)


def walk(made: Chain, chance: random.Random) -> tuple[str, list[int], int]:
    """Write a chain by chance; return its text, its order and how many choices there were."""
    state, tokens, choices = made.start(), [], 0
    while not state.done:
        tokens += state.forced()
        if not (ways := state.allowed()):
            break
        assert len(ways) > 1
        assert list(ways) == sorted(ways)
        choices += 1
        token = chance.choice(ways)
        state.push(token)
        tokens.append(token)
    assert state.allowed() == ()
    return "".join(map(chr, tokens)), state.order, choices


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 2), (2, 2), (9, 9), (12, 12), (100, 100), (3, 100), (10, 11)])
def test_what_is_written_is_a_chain_without_repeats(count: int, size: int) -> None:
    for seed in range(20):
        text, order, _ = walk(chain(count, size), random.Random(seed))
        assert text == " > ".join(f"[{at + 1}]" for at in order)
        assert len(set(order)) == len(order) == count


def test_all_permutations_can_be_written() -> None:
    seen = {tuple(walk(chain(3, 3), random.Random(seed))[1]) for seed in range(200)}
    assert len(seen) == 6


def test_forced_tokens_ask_for_no_choice() -> None:
    assert walk(chain(1, 1), random.Random(0))[2] == 0
    assert walk(chain(2, 2), random.Random(0))[2] == 1
    # of a hundred numbers, one digit at a time: far fewer choices than the 491 characters
    text, _, choices = walk(chain(100, 100), random.Random(0))
    assert len(text) > 480
    assert choices <= 200


def test_an_opening_is_not_written_again() -> None:
    text, order, _ = walk(chain(3, 3, before="answer: [", opening="["), random.Random(1))
    assert "[" + text == " > ".join(f"[{at + 1}]" for at in order)


def test_an_opening_that_no_identifier_begins_with_is_refused() -> None:
    with pytest.raises(UsageError, match="begins the reply with 'Order: '"):
        chain(2, 2, before="Order: ", opening="Order: ")


def test_tokens_that_are_not_allowed_are_refused() -> None:
    state = chain(2, 2).start()
    with pytest.raises(ValueError, match="cannot come here"):
        state.push(ord("x"))


@pytest.mark.parametrize("items", [[(1,), (1, 2)], [(1, 2), (1,)], [(1,), (1,)], [(1,), ()]])
def test_identifiers_that_cannot_be_told_apart(items: list[tuple[int, ...]]) -> None:
    with pytest.raises(UsageError, match="are those of another, or begin them"):
        Chain(items, items, 1)


def test_a_token_over_the_border_is_avoided() -> None:
    def merging(text: str) -> tuple[int, ...]:
        """``] >`` is one token of a tokenizer that merges."""
        return tuple(map(ord, text.replace("] >", "#")))

    assert behind(merging, "[1]", " > [2]") == encode(" > [2]")
    assert behind(encode, "[1]", " > [2]") == encode(" > [2]")
    assert behind(encode, "", "[2]") == encode("[2]")
