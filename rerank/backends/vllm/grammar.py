"""What a request to vLLM carries so that its reply keeps to a grammar, and the grammar that is made of it there.

Two kinds: a chain of identifiers, as `rerank.lm.permutation_grammar` has it, and given tokens one after another, whose
likelihoods are wanted. What is carried is plain lists of numbers, for it may go to another process. Knows token ids,
neither text nor vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from rerank.lm.permutation_grammar import Chain, Ids

#: The key in ``SamplingParams.extra_args``.
KEY = "rerank"
#: All token ids written so far -> those that may come next.
Grammar = Callable[[Sequence[int]], Sequence[int]]


def chained(first: Sequence[Ids], later: Sequence[Ids], wanted: int) -> dict[str, Any]:
    """Fields of ``SamplingParams`` that hold a reply to ``Chain(first, later, wanted)``.

    The grammar begins behind what is forced at once, which belongs into the prompt, and ends with the last choice: what
    is forced from there on need not be asked for. The end is a token that no identifier has.
    """
    used = {token for piece in (*first, *later) for token in piece}
    end = next(token for token in count() if token not in used)
    data = {"first": [*map(list, first)], "later": [*map(list, later)], "count": wanted, "end": end}
    longest = wanted * max(map(len, [*first, *later]))
    return {"max_tokens": longest + 1, "stop_token_ids": [end], "extra_args": {KEY: data}}


def scripted(tokens: Sequence[int]) -> dict[str, Any]:
    """Fields of ``SamplingParams`` that let a reply be these tokens and nothing else, with their log-probabilities."""
    data = {"script": list(tokens)}
    return {"max_tokens": len(tokens), "ignore_eos": True, "logprobs": 0, "extra_args": {KEY: data}}


def grammar(data: dict[str, Any]) -> Grammar:
    """The grammar that a request carries.

    Raises:
        KeyError, TypeError, ValueError, UsageError: The data make none.
    """
    if "script" in data:
        return _script([int(token) for token in data["script"]])
    first, later = ([tuple(map(int, piece)) for piece in data[key]] for key in ("first", "later"))
    return _chain(Chain(first, later, int(data["count"])), int(data["end"]))


def _script(tokens: list[int]) -> Grammar:
    if not tokens:
        raise ValueError("no tokens")
    return lambda written: [tokens[min(len(written), len(tokens) - 1)]]


def _chain(chain: Chain, end: int) -> Grammar:
    """Remembers how far the reply was read; a new one can begin in the middle of it.

    A token that was not allowed, as logits that are no numbers may bring about, ends the reply: its reader sees a chain
    that is too short, where an exception would end the engine.
    """
    state, read = chain.start(), 0
    state.forced()
    choices = min(chain.count, chain.size - 1)

    def ways(written: Sequence[int]) -> Sequence[int]:
        nonlocal read
        for token in written[read:]:
            if token not in state.allowed():
                return [end]
            state.push(token)
            read += 1
        return [end] if len(state.order) >= choices else state.allowed()

    return ways
