"""What a model can be asked to do with a prompt: kinds of question, one frozen value each. Knows no backend.

Every request has one of them, and every backend says which it can do (`tasks_of`). So the call log, the token cap, the
cache and the replay treat all kinds alike, and a new kind passes through them without a change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rerank.errors import UsageError
from rerank.prompts.base import Prompt


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """Go on with the prompt; the reply is text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PermutationTask:
    """Write identifiers in an order of the model's choice, none twice; the reply is their chain as text.

    Attributes:
        items: How each candidate is written, brackets included, e.g. ``("[1]", "[2]")``.
        separator: What stands between two of them.
        count: How many to write.
    """

    items: tuple[str, ...]
    separator: str = " > "
    count: int

    def __post_init__(self) -> None:
        """Check that there is something to write."""
        if not 1 <= self.count <= len(self.items) or len(set(self.items)) < len(self.items):
            raise UsageError(
                f"{self.count} of the identifiers {list(self.items)}", expected="1 to all of identifiers that differ"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinuationTask:
    """Say how likely each continuation is; the reply has one log-probability each, in ``scores``.

    Attributes:
        continuations: Texts that could follow the prompt. One of several tokens has the sum of their logs.
    """

    continuations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodTask(ContinuationTask):
    """The same about texts of many tokens, such as a query; servers tell the likelihood of single tokens only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTask:
    """Say how much attention each passage gets from the end of the prompt; one number each, in ``scores``.

    Attributes:
        spans: First and past-last character of each passage in the last user turn, in the order shown.
        tail: First character of the late instruction there; from it on, everything asks.
        null: The same chat with a content-free query, to calibrate by; empty for none.
        heads: (layer, head) pairs that count, from 0; empty for all.
        weights: How much each of them counts, in their order; empty: all the same, 1.
        length_power: A passage's number is multiplied by its number of tokens to this power: 0 leaves sums, -1 makes
            means of them.
        layers: First and last layer that count; all of them if None.
        per_head: Give the numbers of every head apart, layers first, then heads, then passages; the reply's text says
            how many layers and heads, as ``30x9``. The token filter is then left out.
    """

    spans: tuple[tuple[int, int], ...]
    tail: int
    null: Prompt = ()
    heads: tuple[tuple[int, int], ...] = ()
    weights: tuple[float, ...] = ()
    length_power: float = 0.0
    layers: tuple[int, int] | None = None
    per_head: bool = False


@dataclass(frozen=True, slots=True)
class CrossEncoderTask:
    """Say how relevant each passage of the window is to its query, pair by pair; one number each, in ``scores``."""


Task = GenerationTask | PermutationTask | ContinuationTask | LikelihoodTask | AttentionTask | CrossEncoderTask


def tasks_of(backend: Any) -> frozenset[type[Any]]:
    """The kinds of task that a backend (or its class) does; one that does not say so writes."""
    said: frozenset[type[Any]] = getattr(backend, "answers", frozenset({GenerationTask}))
    return said
