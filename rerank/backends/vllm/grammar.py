"""Encode what requests need from logits in vLLM's ``SamplingParams``, and apply it inside the engine.

There are three kinds of grammars: a permutation of identifiers (`rerank.lm.permutation_grammar`), a forced token
sequence whose log-probabilities are needed, and named tokens at one position whose log-probabilities or logits are
needed. Grammars are encoded as lists of numbers, since the engine may run in another process. This module works on
token ids and needs no vLLM; only `mask_logits` imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from rerank.lm.joined_tokens import TokenIds
from rerank.lm.permutation_grammar import PermutationGrammar

if TYPE_CHECKING:
    import torch

#: Key of the grammar in ``SamplingParams.extra_args``.
KEY = "rerank"
#: Maximum number of tokens per engine request whose log-probabilities or logits are requested.
NAMED = 128
#: Function from all token ids generated so far to the token ids allowed next.
NextTokens = Callable[[Sequence[int]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Allowed:
    """The tokens that a request may generate next."""

    tokens: Sequence[int]
    #: Whether their logits become log-probabilities among all tokens, including those that are not allowed.
    normalised: bool = False


@dataclass(frozen=True, slots=True)
class Grammar:
    """The grammar of a request. Its logits are returned as log-probabilities if ``normalised``."""

    next_tokens: NextTokens
    normalised: bool = False

    def __call__(self, generated: Sequence[int]) -> Allowed:
        return Allowed(self.next_tokens(generated), self.normalised)


def permutation_parameters(first: Sequence[TokenIds], later: Sequence[TokenIds], size: int) -> dict[str, Any]:
    """Return the fields of ``SamplingParams`` that restrict a reply to ``PermutationGrammar(first, later, size)``.

    The grammar starts after the first forced tokens, which are appended to the prompt. It ends with the last
    choice, since the forced tokens after the last choice are known. The end is marked by a token that no identifier
    contains.
    """
    used = {token for ids in (*first, *later) for token in ids}
    end = next(token for token in count() if token not in used)
    data = {"first": [*map(list, first)], "later": [*map(list, later)], "count": size, "end": end}
    max_tokens = size * max(map(len, [*first, *later]))
    return {"max_tokens": max_tokens + 1, "stop_token_ids": [end], "extra_args": {KEY: data}}


def forced_parameters(tokens: Sequence[int]) -> dict[str, Any]:
    """Return the ``SamplingParams`` fields that make vLLM generate the given tokens, for their log-probabilities."""
    data = {"script": list(tokens)}
    return {"max_tokens": len(tokens), "ignore_eos": True, "logprobs": 0, "extra_args": {KEY: data}}


def named_parameters(tokens: Sequence[int], *, as_logits: bool) -> dict[str, Any]:
    """Return the ``SamplingParams`` fields for the log-probabilities, or the logits, of the given tokens at one step.

    They are the ``len(tokens)`` best tokens, since no others are allowed.
    """
    data = {"named": list(tokens), "logits": as_logits}
    return {"max_tokens": 1, "ignore_eos": True, "logprobs": len(tokens), "extra_args": {KEY: data}}


def parse_grammar(data: dict[str, Any]) -> Grammar:
    """Read the grammar that a request contains."""
    if "named" in data or "script" in data:
        tokens = [int(token) for token in data.get("named") or data["script"]]
        if not tokens:
            raise ValueError("the list of tokens is empty")
        if "named" in data:
            return Grammar(lambda _: tokens, normalised=not data["logits"])
        return Grammar(lambda generated: [tokens[min(len(generated), len(tokens) - 1)]], normalised=True)
    first, later = ([tuple(map(int, ids)) for ids in data[key]] for key in ("first", "later"))
    return Grammar(_permutation_tokens(PermutationGrammar(first, later, int(data["count"])), int(data["end"])))


def _permutation_tokens(grammar: PermutationGrammar, end: int) -> NextTokens:
    """Return a function that returns the allowed next tokens of a permutation, given all tokens generated so far.

    A token that was not allowed (NaN logits can cause one) ends the reply. The result is then an incomplete
    permutation; raising an exception instead would stop the engine.
    """
    state, processed = grammar.start(), 0
    state.push_forced()
    choices = min(grammar.count, grammar.size - 1)

    def next_tokens(generated: Sequence[int]) -> Sequence[int]:
        nonlocal processed
        for token in generated[processed:]:
            if token not in state.allowed():
                return [end]
            state.push(token)
            processed += 1
        return [end] if len(state.order) >= choices else state.allowed()

    return next_tokens


def mask_logits(logits: torch.Tensor, allowed: Mapping[int, Allowed]) -> torch.Tensor:
    """Set the logits, (rows, vocabulary), of all tokens that are not allowed to minus infinity, in place.

    ``allowed`` maps each restricted row to its allowed tokens. All rows are changed together, with one transfer to
    the device and a few kernel calls for any number of rows. The log-probability of a token is its logit minus the
    logarithm of the sum of the exponentials of all logits of its row.
    """
    import torch

    if not allowed:
        return logits
    rows = [row for row, found in allowed.items() for _ in found.tokens]
    tokens = [token for found in allowed.values() for token in found.tokens]
    normalised = [row for row, found in allowed.items() if found.normalised]
    indices = torch.tensor([*rows, *tokens, *allowed, *normalised], device=logits.device)
    row, token, restricted, log_rows = torch.split(indices, [len(rows), len(tokens), len(allowed), len(normalised)])
    values = logits[row, token]
    if normalised:
        sums = logits.new_zeros(len(logits)).index_copy_(0, log_rows, torch.logsumexp(logits[log_rows], dim=-1))
        values -= sums[row]
    if len(allowed) == len(logits):  # the usual case: all rows have a grammar
        logits.fill_(-torch.inf)
    else:
        logits.index_fill_(0, restricted, -torch.inf)
    return logits.index_put_((row, token), values)
