"""The generating judge: prompt -> written order -> parser. Knows neither strategies nor files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rerank.judges.base import Limits, Verdict, Whole
from rerank.parsing import parse
from rerank.prompts.identifiers import Alphabet, identifiers, letters_of
from rerank.tasks import GenerationTask, PermutationTask, Reply, Request, Sampling
from rerank.types import Window

__all__ = ["SPARE_TOKENS", "Generate", "Limits", "verdict"]

#: Tokens granted beyond the bare list of identifiers, for a model that ends its reply with a line break or a word.
SPARE_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Generate(Whole):
    """Ask a model to write the order of a window.

    Attributes:
        constrain: Let the model write nothing but identifiers that it has not written yet, where its backend can do
            that; then no reply can be malformed. Otherwise replies are read as they come.
        identifiers: ``numbers``, as in the published models' training, or ``letters``, of one token each.
    """

    needs = (PermutationTask, GenerationTask)

    constrain: bool = True
    identifiers: Alphabet = "numbers"
    _reply_tokens: dict[tuple[str, ...], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def suits(cls, options: Mapping[str, str]) -> str:
        """Letters want a prompt that speaks of letters."""
        return "listwise_letters" if options.get("identifiers") == "letters" else ""

    @property
    def identity(self) -> Mapping[str, str]:
        """The names that the tokenizer at hand has: replies are read with them."""
        return {"letters": " ".join(letters_of(self.backend.tokens))} if self.identifiers == "letters" else {}

    def requests(self, window: Window) -> list[Request]:
        """One call, its passages cut so that prompt and reply fit."""
        labels = identifiers(self.identifiers, len(window), self.backend.tokens)
        thinking = self.limits.thinking_tokens
        reply_tokens = self.reply_tokens(labels, window.wanted)
        fitted = self.budget.fit(self.template, window, reply_tokens=reply_tokens + thinking, labels=labels)
        sampling = Sampling(
            max_tokens=reply_tokens, temperature=self.limits.temperature, seed=self.limits.seed, thinking=thinking
        )
        items = tuple(f"[{label}]" for label in labels)
        constrained = self.constrain and self.does(PermutationTask)
        task = PermutationTask(items=items, count=window.wanted) if constrained and window.wanted else GenerationTask()
        return [Request(prompt=fitted.prompt, sampling=sampling, window=window, task=task)]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """What the reply says."""
        labels = identifiers(self.identifiers, len(window), self.backend.tokens)
        return verdict(replies[0], len(window), wanted=window.wanted, labels=labels)

    def reply_tokens(self, labels: Sequence[str], wanted: int) -> int:
        """Tokens that ``wanted`` identifiers take, the longest ones, and a few to spare."""
        key = (*labels, str(wanted))
        if key not in self._reply_tokens:
            chain = " > ".join(f"[{label}]" for label in labels[len(labels) - wanted :])
            self._reply_tokens[key] = self.backend.tokens.lengths([chain])[0] + SPARE_TOKENS
        return self._reply_tokens[key]


def verdict(reply: Reply, count: int, *, wanted: int | None = None, labels: Sequence[str] | None = None) -> Verdict:
    """What a written reply says about a window of ``count`` documents; a reply that never came is not parsed.

    Args:
        reply: What came back.
        count: Documents in the window.
        wanted: How many of them were asked for; a reply that names so many is not partial. None for all.
        labels: Their identifiers, if they are not 1, 2, ...
    """
    if reply.finish == "error":
        return Verdict(order=tuple(range(count)), status="error", detail=reply.error)
    parsed = parse(reply.text, count, labels)
    status = "refused" if reply.finish == "refused" and not parsed.order else parsed.status
    if status == "partial" and wanted is not None and len(parsed.order) >= wanted:
        status = "repaired" if parsed.detail else "ok"
    return Verdict(order=parsed.permutation, status=status, detail=parsed.detail)
