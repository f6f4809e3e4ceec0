"""The judge that reads an order off the first identifier's logits. Knows neither strategies nor parsing.

Source: FIRST, Reddy et al., EMNLP 2024, arXiv 2406.15657, section 3: a listwise model that is about to write its order
gives every identifier a logit, and these are in the order that it would write, or nearly so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rerank.judges.base import Verdict, Whole, by_score, failed
from rerank.judges.base.continuations import first_marks, weighing
from rerank.prompts.identifiers import identifiers, letters_of
from rerank.tasks import ContinuationTask, Reply, Request
from rerank.types import Window


@dataclass(frozen=True, kw_only=True)
class Logits(Whole):
    """Ask once about a window and write nothing: the order of falling log P(identifier | prompt), ties as given.

    Passages are named by letters that are one token each: A to Z, then pairs. A window with more documents than the
    tokenizer has such names is a `UsageError` that says how many there are. One request a window, one forward pass.
    """

    needs = (ContinuationTask,)
    prompt = "listwise_letters"

    @property
    def identity(self) -> Mapping[str, str]:
        """The names that the tokenizer at hand has: replies are read with them."""
        return {"letters": " ".join(letters_of(self.backend.tokens))}

    def requests(self, window: Window) -> list[Request]:
        """One question: how likely is each identifier to be the first."""
        labels = identifiers("letters", len(window), self.backend.tokens)
        return [weighing(self, window, first_marks(labels, self.template), labels=labels)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """The order of falling log-probability."""
        return failed(replies, len(window)) or by_score(replies[0].scores, len(window))
