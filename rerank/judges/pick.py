"""The judge that picks the best of a few, for setwise and pairwise strategies. Knows neither strategies nor files.

Source: setwise prompting, Zhuang et al., SIGIR 2024, arXiv 2310.09497, section 3; for two documents, pairwise
ranking prompting, Qin et al., NAACL Findings 2024, arXiv 2306.17563, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rerank.errors import UsageError
from rerank.judges.base import FAILURES, Verdict, Whole, by_score, failed
from rerank.judges.base.continuations import first_marks, weighing
from rerank.judges.generate import SPARE_TOKENS, verdict
from rerank.prompts.identifiers import identifiers, letters_of
from rerank.tasks import ContinuationTask, GenerationTask, PermutationTask, Reply, Request, Sampling
from rerank.types import Window


@dataclass(frozen=True, kw_only=True)
class Pick(Whole):
    """Ask which document of a window is the best. One request a window.

    A window without a usable reply keeps its order, so that its first document counts as the best, and is a failure.

    Attributes:
        by: ``likelihood`` orders the whole window by log P(identifier | prompt), ties as given. ``generation`` lets the
            model write one identifier, the only thing that it can write where its backend constrains it; that document
            comes first, the others follow as given.

    Raises:
        UsageError: The backend cannot answer in that way.
    """

    needs = (ContinuationTask, PermutationTask, GenerationTask)
    prompt = "pick"

    by: Literal["likelihood", "generation"] = "likelihood"

    def __post_init__(self) -> None:
        """Check that the backend answers in the way that is asked for."""
        super().__post_init__()
        tasks = (ContinuationTask,) if self._weighs else (PermutationTask, GenerationTask)
        if not any(map(self.does, tasks)):
            raise UsageError(
                f"by={self.by} with model {self.backend.identity.get('model', '')!r}, whose backend does not do that",
                expected=f"by={'generation' if self._weighs else 'likelihood'}, which it does",
            )

    @property
    def identity(self) -> Mapping[str, str]:
        """The names that the tokenizer at hand has: replies are read with them."""
        return {"letters": " ".join(letters_of(self.backend.tokens))}

    def requests(self, window: Window) -> list[Request]:
        """One question: which is the best."""
        labels = identifiers("letters", len(window), self.backend.tokens)
        if self._weighs:
            return [weighing(self, window, first_marks(labels, self.template), labels=labels)]
        items = tuple(f"[{label}]" for label in labels)
        reply_tokens = max(self.backend.tokens.lengths(list(items))) + SPARE_TOKENS
        limits, thinking = self.limits, self.limits.thinking_tokens
        fitted = self.budget.fit(self.template, window, reply_tokens=reply_tokens + thinking, labels=labels)
        sampling = Sampling(
            max_tokens=reply_tokens, temperature=limits.temperature, seed=limits.seed, thinking=thinking
        )
        task = PermutationTask(items=items, count=1) if self.does(PermutationTask) else GenerationTask()
        return [Request(prompt=fitted.prompt, sampling=sampling, window=window, task=task)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """By falling log-probability, or the one that was picked and then the others."""
        count = len(window)
        if self._weighs:
            return failed(replies, count) or by_score(replies[0].scores, count)
        labels = identifiers("letters", count, self.backend.tokens)
        read = verdict(_closed(replies[0]), count, wanted=1, labels=labels)
        if read.status in FAILURES:
            return read
        best = read.order[0]
        return replace(read, order=(best, *(at for at in range(count) if at != best)))

    @property
    def _weighs(self) -> bool:
        return self.by == "likelihood"


def _closed(reply: Reply) -> Reply:
    """A model that is given the first bracket may write the identifier and end there."""
    text = reply.text.rstrip()
    ended = reply.finish == "stop" and "[" in text and "]" not in text
    return replace(reply, text=f"{text}]") if ended else reply
