"""Chains of identifiers, written by a model that may choose only where there is a choice.

Greedy decoding under the grammar of `rerank.lm.permutation_grammar`, token for token, with fewer forward passes: tokens
that
the grammar forces are appended without asking, and go through the model together with the next one that is asked for.
Imports torch at its top, so it is imported only when a model is there. Knows token ids, not chats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rerank.lm.cpu_attention import sees_everything
from rerank.lm.forward_pass import forward
from rerank.lm.kv_cache import roomy_cache
from rerank.lm.output_head import Head
from rerank.lm.permutation_grammar import Chain, State
from rerank.lm.sampling import draw
from rerank.lm.temporary_settings import Borrowed
from rerank.tasks import Sampling


@dataclass
class Row:
    """One chain under way.

    Attributes:
        prompt: Token ids that it follows.
        state: What is written, and what may come.
        sampling: Greedy, or by chance.
        chance: Where its draws come from.
        written: Token ids of the chain so far.
        steps: Forward passes after the prompt's own.
    """

    prompt: Sequence[int]
    state: State
    sampling: Sampling
    chance: torch.Generator
    written: list[int] = field(default_factory=list)
    steps: int = 0

    def begin(self) -> list[int]:
        """Tokens of the first pass: the prompt and what is forced at once; none if there is no choice at all."""
        self.written = self.state.forced()
        return [] if self.state.done else [*self.prompt, *self.written]

    def choose(self, scores: torch.Tensor) -> list[int]:
        """Take the best allowed token (the lowest of equals) and what follows by force; return what to read next.

        Args:
            scores: (allowed tokens,) their logits.
        """
        token = self.state.allowed()[int(draw(scores, self.sampling, self.chance).argmax())]
        self.state.push(token)
        tokens = [token, *self.state.forced()]
        self.written += tokens
        return [] if self.state.done else tokens


def permute(
    model: Any,
    prompts: Sequence[Sequence[int]],
    chains: Sequence[Chain],
    samplings: Sequence[Sampling],
    seeds: Sequence[int],
) -> list[Row]:
    """Write a chain behind each prompt.

    Rows are decoded together: each hands in the tokens that it has ahead, padded on the left to the longest; positions
    count real tokens only. A model some of whose layers count keys (sliding windows) or read them one after the other
    (recurrence) would mind the padding between tokens, so its rows are decoded one by one.

    Args:
        model: A causal language model of transformers.
        prompts: Token ids, one list a row.
        chains: The grammar of each row.
        samplings: How to decode each row.
        seeds: Where each row's chance starts.

    Returns:
        The rows, their chains complete.
    """
    rows = [
        Row(prompt, chain.start(), sampling, torch.Generator().manual_seed(seed))
        for prompt, chain, sampling, seed in zip(prompts, chains, samplings, seeds, strict=True)
    ]
    together = [rows] if sees_everything(model.config) else [[row] for row in rows]
    with Borrowed(model), Head(model) as head:
        for some in together:
            _complete(model, some, head)
    return rows


def _complete(model: Any, rows: Sequence[Row], head: Head) -> None:
    """Write the chains of some rows together."""
    ahead = [row.begin() for row in rows]
    if not any(ahead):
        return
    # A step is as wide as the row that has most ahead, so rows of a batch take up room for one another.
    room = max(map(len, ahead)) + sum(row.state.longest for row in rows)
    reader = _Reader(model, len(rows), roomy_cache(model.config, room))
    while any(ahead):
        ways = [row.state.allowed() for row in rows]
        head.only = sorted({token for tokens in ways for token in tokens})
        logits = reader.read(ahead)
        for at, row in enumerate(rows):
            if ahead[at]:
                row.steps += reader.passes > 1
                ahead[at] = row.choose(head.of(logits[at], ways[at]))


class _Reader:
    """Feeds blocks of tokens to a model that remembers what it has read.

    Args:
        model: The model.
        rows: How many.
        cache: An empty key-value cache.
    """

    def __init__(self, model: Any, rows: int, cache: Any) -> None:
        self._model, self._cache = model, cache
        self._mask = torch.zeros(rows, 0, dtype=torch.long)
        self.passes = 0

    def read(self, blocks: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read one block a row; return (rows, tokens asked for) logits of what follows each.

        A row without a block reads padding, which nothing ever attends to.
        """
        width = max(map(len, blocks))
        ids = torch.tensor([[0] * (width - len(block)) + list(block) for block in blocks])
        new = torch.tensor([[0] * (width - len(block)) + [1] * len(block) for block in blocks])
        positions = (self._mask.sum(dim=1, keepdim=True) + new.cumsum(dim=1) - 1).clamp(min=0)
        self._mask = torch.cat([self._mask, new], dim=1)
        device = self._model.device
        out = forward(
            self._model,
            cache=self._cache,
            input_ids=ids.to(device),
            attention_mask=self._mask.to(device),
            position_ids=positions.to(device),
            use_cache=True,
            logits_to_keep=1,
        )
        self.passes += 1
        return out.logits[:, -1].float().cpu()  # type: ignore[no-any-return]
