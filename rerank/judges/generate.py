"""The generating judge: prompt -> backend -> parser. Knows neither strategies nor files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from rerank.backends.base import Backend, Reply, Request, Sampling
from rerank.judges.base import Verdict
from rerank.parsing import parse
from rerank.prompts.budget import Budget
from rerank.prompts.template import PromptTemplate
from rerank.types import Window

#: Tokens granted beyond the bare list of identifiers, for a model that ends its reply with a line break or a word.
SPARE_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Options of the judge.

    Attributes:
        min_passage_tokens: Passages are never cut below that many tokens.
        max_passage_tokens: Nor left longer than that, even where there is room; None for no limit.
        context_size: Use less than the model's context; None for all of it.
        temperature: 0 is greedy.
        seed: For sampling.
    """

    min_passage_tokens: int = 32
    max_passage_tokens: int | None = None
    context_size: int | None = None
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Ask a model to write the order of a window.

    Attributes:
        backend: Who answers.
        template: How the question is put.
        limits: Token budget and decoding.
    """

    backend: Backend
    template: PromptTemplate
    limits: Limits = field(default_factory=Limits)
    backends: ClassVar[tuple[str, ...]] = ("fake", "hf")
    _budget: Budget = field(init=False, repr=False)
    _reply_tokens: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the budget, which remembers how long documents are.

        Raises:
            UsageError: The limits contradict each other or the model.
        """
        budget = Budget(
            self.backend.tokens,
            floor=self.limits.min_passage_tokens,
            max_passage_tokens=self.limits.max_passage_tokens,
            context_size=self.limits.context_size,
        )
        object.__setattr__(self, "_budget", budget)

    def order(self, windows: Sequence[Window]) -> list[Verdict]:
        """Judge all windows with one call to the backend.

        Raises:
            ContextOverflowError: A window does not fit the context even with its passages at the floor.
            BackendError: Nothing can be answered.
        """
        replies = self.backend.generate([self.request(window) for window in windows])
        return [verdict(reply, len(window)) for window, reply in zip(windows, replies, strict=True)]

    def request(self, window: Window) -> Request:
        """The call for one window, its passages cut so that prompt and reply fit."""
        reply_tokens = self.reply_tokens(len(window))
        fitted = self._budget.fit(self.template, window, reply_tokens=reply_tokens)
        sampling = Sampling(max_tokens=reply_tokens, temperature=self.limits.temperature, seed=self.limits.seed)
        return Request(prompt=fitted.prompt, sampling=sampling, window=window)

    def reply_tokens(self, count: int) -> int:
        """Tokens that a complete order of ``count`` passages takes, and a few to spare."""
        if count not in self._reply_tokens:
            chain = " > ".join(f"[{number}]" for number in range(1, count + 1))
            self._reply_tokens[count] = self.backend.tokens.lengths([chain])[0] + SPARE_TOKENS
        return self._reply_tokens[count]


def verdict(reply: Reply, count: int) -> Verdict:
    """What a reply says about a window of ``count`` documents; a reply that never came is not parsed."""
    if reply.finish == "error":
        return Verdict(order=tuple(range(count)), status="error", detail=reply.error)
    parsed = parse(reply.text, count)
    status = "refused" if reply.finish == "refused" and not parsed.order else parsed.status
    return Verdict(order=parsed.permutation, status=status, detail=parsed.detail)
