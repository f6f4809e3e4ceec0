"""Fit a prompt into a context: passages are cut evenly, the instruction and the query never. Knows no model.

Counts of parts do not add up to the count of the whole (tokens merge over borders), so the cut is only estimated from
the passages' lengths; what is returned was rendered and counted as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import ContextOverflowError, UsageError
from rerank.prompts.base import PICTURE, Prompt, TokenCounter
from rerank.prompts.counting import Remembered
from rerank.prompts.passages import one_line, passage_text, picture_marks, with_pictures
from rerank.prompts.template import PromptTemplate
from rerank.types import Window

#: Estimates before the search halves the range instead.
_ESTIMATES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A prompt that fits.

    Attributes:
        prompt: The chat.
        tokens: How many tokens it has, counted as a whole.
        passages: The passages as they are shown.
        cut: How many passages were cut.
        cap: The length that they were cut to, in tokens; None if none was.
    """

    prompt: Prompt
    tokens: int
    passages: tuple[str, ...] = ()
    cut: int = 0
    cap: int | None = None


def water_level(lengths: Sequence[int], budget: int) -> int:
    """The largest cap for which the lengths, each cut to it, sum to at most ``budget``; at most the longest length.

    >>> water_level([10, 2, 10], 12)
    5
    """
    left, rest = budget, len(lengths)
    for length in sorted(lengths):
        if length * rest > left:
            return max(0, left // rest)
        left, rest = left - length, rest - 1
    return max(lengths, default=0)


class Budget:
    """Fits the prompts of a model. Keep one and use it for all windows: it remembers how long documents are.

    Args:
        tokens: How the model counts.
        floor: Passages are never cut below that many tokens.
        max_passage_tokens: Nor left longer than that, even where there is room; None for no limit.
        context_size: Use less than the model's context; None for all of it.

    Raises:
        UsageError: The numbers contradict each other or the model.
    """

    def __init__(
        self,
        tokens: TokenCounter,
        *,
        floor: int = 32,
        max_passage_tokens: int | None = None,
        context_size: int | None = None,
    ) -> None:
        """Check the numbers."""
        if floor < 0:
            raise UsageError(f"--min-passage-tokens {floor}", expected="at least 0")
        if max_passage_tokens is not None and max_passage_tokens < max(1, floor):
            raise UsageError(
                f"--max-passage-tokens {max_passage_tokens} with --min-passage-tokens {floor}",
                expected="a maximum that is not below the minimum, nor below 1",
                remedy="Lower --min-passage-tokens too",
            )
        if context_size is not None and not 0 < context_size <= tokens.context_size:
            raise UsageError(
                f"--context-size {context_size}",
                expected=f"1 to {tokens.context_size}, which is what the model has",
                remedy="Leave it out to use all of it",
            )
        self._tokens = Remembered(tokens)
        self._floor = floor
        self._max = max_passage_tokens
        self._given, self._model = context_size, tokens

    @property
    def _context(self) -> int:
        """Asked for when it is needed: a server has to be there to say it."""
        return self._given or self._model.context_size

    def fit(
        self, template: PromptTemplate, window: Window, *, reply_tokens: int, labels: Sequence[str] | None = None
    ) -> Fitted:
        """Render a window's prompt with its passages cut as little as the context allows.

        All passages longer than one common cap are cut to it, and it is the largest that fits (up to what merging
        at the borders may hide). Few prompts are counted: one without passages, and most often one or two more.
        Pictures are never cut.

        Args:
            template: How the question is put.
            window: What is asked about.
            reply_tokens: Tokens to keep free for the reply.
            labels: The passages' identifiers, if they are not 1, 2, ...

        Raises:
            ContextOverflowError: It does not fit with every passage at the floor, or with its pictures.
            DataError: The prompt shows scores and the window has none, or a Jinja section fails; or documents lack
                what it shows, text or picture.
        """
        available = self._context - reply_tokens
        if template.pictures:
            return self._pictured(template, window, available=available, labels=labels)
        query = one_line(window.query.text)
        texts = [passage_text(doc, escape=template.escape_brackets) for doc in window.docs]
        scores = window.scores or None
        attempt = _Attempt(template, query, scores, labels, texts, self._tokens.lengths(texts), self._tokens)
        alone = self._tokens.count(template.render(query, [""] * len(texts), scores=scores, labels=labels))
        fitted = self._search(attempt, alone=alone, available=available)
        if fitted.tokens > available:
            raise self._overflow(len(texts), needed=fitted.tokens, alone=alone, available=available)
        return fitted

    def _pictured(
        self, template: PromptTemplate, window: Window, *, available: int, labels: Sequence[str] | None
    ) -> Fitted:
        """The prompt about a window's pictures, which fits or does not."""
        query = one_line(window.query.text.replace(PICTURE, " "))
        marks = picture_marks(window.docs)
        rendered = template.render(query, marks, scores=window.scores or None, labels=labels)
        prompt = with_pictures(rendered, window.docs)
        tokens = self._tokens.count(prompt)
        if tokens > available:
            raise ContextOverflowError(
                f"A prompt of {len(marks)} pictures needs {tokens} tokens, and {available} are available: a context "
                f"of {self._context} less the reply",
                remedy=("Lower --depth, use --method sliding, or take" if len(marks) > 1 else "Take")
                + " smaller pictures or a model with a longer context",
            )
        return Fitted(prompt=prompt, tokens=tokens, passages=(PICTURE,) * len(marks))

    def _search(self, attempt: _Attempt, *, alone: int, available: int) -> Fitted:
        """The attempt with the largest cap that fits; the one at the lowest cap if none does."""
        longest = max(attempt.lengths, default=0)
        highest = longest if self._max is None else min(longest, self._max)
        lowest = min(self._floor, highest)
        level = water_level(attempt.lengths, available - alone)
        fits, fails = lowest - 1, highest + 1  # both borders are open: nothing was tried yet
        best: Fitted | None = None
        for tries in itertools.count():
            # The cap lies strictly between the borders and becomes one of them, so the loop ends; from the seventh
            # try on it halves the range.
            cap = (fits + fails) // 2 if tries >= _ESTIMATES else min(max(level, fits + 1), fails - 1)
            fitted = attempt.at(cap)
            level = water_level(attempt.lengths, available - fitted.tokens + attempt.spent(cap))
            if fitted.tokens <= available:
                best, fits = fitted, cap
            else:
                fails = cap
            if fails - fits <= 1 or (best is fitted and level <= cap):
                break
        return best or fitted

    def _overflow(self, count: int, *, needed: int, alone: int, available: int) -> ContextOverflowError:
        return ContextOverflowError(
            f"A prompt of {count} passages needs {needed} tokens with every passage cut to {self._floor} "
            f"(instruction and query alone: {alone}), and {available} are available: a context of {self._context} "
            "less the reply",
            remedy=("Lower --depth, use --method sliding, lower" if count > 1 else "Lower")
            + " --min-passage-tokens, or take a model with a longer context",
        )


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One window, ready to be rendered at any cap."""

    template: PromptTemplate
    query: str
    scores: Sequence[float] | None
    labels: Sequence[str] | None
    texts: Sequence[str]
    lengths: Sequence[int]
    tokens: Remembered

    def spent(self, cap: int) -> int:
        """Tokens of the passages by themselves."""
        return sum(min(length, cap) for length in self.lengths)

    def at(self, cap: int) -> Fitted:
        """The prompt at that cap, counted."""
        pairs = zip(self.texts, self.lengths, strict=True)
        shown = [text if length <= cap else self.tokens.cut(text, cap) for text, length in pairs]
        prompt = self.template.render(self.query, shown, scores=self.scores, labels=self.labels)
        cut = sum(length > cap for length in self.lengths)
        tokens = self.tokens.count(prompt)
        return Fitted(prompt=prompt, tokens=tokens, passages=tuple(shown), cut=cut, cap=cap if cut else None)
