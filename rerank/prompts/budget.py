"""Fit prompts into a context: passages are truncated to a common length; instruction and query are never truncated.

The token count of a prompt is not the sum of the counts of its parts, since a token can span two parts. The length to
which passages are truncated is therefore estimated from their token counts, and the returned prompt is counted as a
whole.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import ContextOverflowError, UsageError
from rerank.prompts.base import PICTURE, Prompt, TokenCounter
from rerank.prompts.bounded_memo import ENTRY_BYTES, BoundedMemo
from rerank.prompts.cached_counter import CachedTokenCounter
from rerank.prompts.escaping import PromptEscaping, escape_turn_marks
from rerank.prompts.passages import (
    collapse_passage_whitespace,
    passage_text,
    picture_marks_in_prompt,
    replace_prompt_picture_marks,
)
from rerank.prompts.template import PromptTemplate
from rerank.types import Document, Window

#: Key of a cached passage: text, title and picture of the document, and the fields of `PromptEscaping`. The document
#: itself is not the key, because strings cache their hash and frozen dataclasses do not.
_PassageKey = tuple[str, str, str, bool, bool]

#: Number of estimated caps to try before bisection.
_ESTIMATES = 6
#: Maximum size of the memo of passages in bytes, and of the memo of prompts without passages in entries.
_TEXTS_BYTES, _FIXED_ENTRIES = 16 << 20, 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPrompt:
    """A prompt that fits into the context.

    Attributes:
        prompt: The chat.
        tokens: Number of tokens of the whole prompt.
        passages: The passages in the prompt.
        cut: Number of truncated passages.
        cap: Number of tokens to which these passages were truncated; None if no passage was truncated.
        dropped: Number of tokens that were cut from each passage; empty if no passage was truncated.
    """

    prompt: Prompt
    tokens: int
    passages: tuple[str, ...] = ()
    cut: int = 0
    cap: int | None = None
    dropped: tuple[int, ...] = ()


def prompt_passage_token_cap(lengths: Sequence[int], budget: int) -> int:
    """Return the largest cap on passage lengths for which sum(min(length, cap)) <= budget (water-filling).

    The cap is at most the longest length, and 0 if the budget is negative.

    >>> prompt_passage_token_cap([10, 2, 10], 12)
    5
    """
    left, rest = budget, len(lengths)
    for length in sorted(lengths):
        if length * rest > left:
            return max(0, left // rest)
        left, rest = left - length, rest - 1
    return max(lengths, default=0)


class PromptBudget:
    """A budget that fits prompts into a model's context. Use one for all windows, since it caches token counts.

    Args:
        tokens: The model's token counter.
        floor: Minimum number of tokens kept of each passage.
        max_passage_tokens: Truncate passages to at most this many tokens, even if they fit; None for no limit.
        context_size: Context size to use, at most the context size of the model; None for the model's own.
    """

    def __init__(
        self,
        tokens: TokenCounter,
        *,
        floor: int = 32,
        max_passage_tokens: int | None = None,
        context_size: int | None = None,
    ) -> None:
        """Check the limits."""
        check_prompt_passage_limits(floor, max_passage_tokens)
        if context_size is not None and not 0 < context_size <= tokens.context_size:
            raise UsageError(
                f"--context-size is {context_size}",
                expected=f"1 to {tokens.context_size}, the context size of the model",
                remedy="Omit --context-size to use the whole context",
            )
        self._tokens = CachedTokenCounter(tokens)
        self._texts: BoundedMemo[_PassageKey, str] = BoundedMemo(_TEXTS_BYTES, _prompt_passage_cache_size)
        self._fixed: BoundedMemo[tuple[object, ...], int] = BoundedMemo(_FIXED_ENTRIES, lambda *_: 1)
        self._floor = floor
        self._max = max_passage_tokens
        self._context_size, self._model = context_size, tokens
        #: Marks of turns that the model's tokenizer has in addition to the known ones.
        self.turn_marks: tuple[str, ...] = getattr(tokens, "turn_marks", ())

    @property
    def _context(self) -> int:
        """The context size in tokens. It is read only when needed, since it may require a request to a server."""
        return self._context_size or self._model.context_size

    def fit(
        self, template: PromptTemplate, window: Window, *, reply_tokens: int, labels: Sequence[str] | None = None
    ) -> FittedPrompt:
        """Render the prompt of a window, truncating its passages as little as possible.

        All passages longer than a common cap are truncated to this cap, which is the largest that fits (except for
        effects of tokens that span two parts). Only a few prompts have to be counted: one without passages, and usually
        one or two more. Pictures are never resized.

        Args:
            template: The prompt template.
            window: The window.
            reply_tokens: Number of tokens to reserve for the reply.
            labels: Identifiers of the passages; 1, 2, ... if None.
        """
        available = self._context - reply_tokens
        template = template.with_instruction(escape_turn_marks(window.query.instruction, self.turn_marks))
        if template.pictures:
            return self._fit_pictures(template, window, available=available, labels=labels)
        escaping = template.escaping(labels)
        query = escaping.escape(collapse_passage_whitespace(window.query.text), self.turn_marks)
        texts = self._passage_texts(window.docs, escaping)
        scores = window.scores or None
        attempt = _Attempt(template, query, scores, labels, texts, self._tokens.lengths(texts), self._tokens)
        fixed = self._count_fixed(attempt)
        fitted = self._search(attempt, fixed=fixed, available=available)
        if fitted.tokens > available:
            raise self._overflow(len(texts), needed=fitted.tokens, fixed=fixed, available=available)
        return fitted

    def _passage_texts(self, docs: Sequence[Document], escaping: PromptEscaping) -> list[str]:
        """Return the passages of documents. They are cached, since windows and rounds of a query share documents."""
        keys = [(doc.text, doc.title, doc.image, escaping.brackets, escaping.letters) for doc in docs]
        texts = self._texts.get_all(keys)
        missing = {key: doc for key, doc, text in zip(keys, docs, texts, strict=True) if text is None}
        new = {key: escaping.escape(passage_text(doc), self.turn_marks) for key, doc in missing.items()}
        self._texts.put_all(new.items())
        return [new[key] if text is None else text for key, text in zip(keys, texts, strict=True)]

    def _count_fixed(self, attempt: _Attempt) -> int:
        """Return the number of tokens of a prompt without passages. It is cached, since windows of a query share it."""
        template, labels = attempt.template, attempt.labels and tuple(attempt.labels)
        key = (template, attempt.query, len(attempt.texts), labels, attempt.scores if template.shows_scores else None)
        tokens = self._fixed.get(key)
        if tokens is None:
            tokens = self._tokens.count(attempt.fill([""] * len(attempt.texts)))
            self._fixed.put(key, tokens)
        return tokens

    def _fit_pictures(
        self, template: PromptTemplate, window: Window, *, available: int, labels: Sequence[str] | None
    ) -> FittedPrompt:
        """Render the prompt of a window of pictures, which are never resized."""
        query = escape_turn_marks(collapse_passage_whitespace(window.query.text.replace(PICTURE, " ")), self.turn_marks)
        marks = picture_marks_in_prompt(window.docs)
        rendered = template.render(query, marks, scores=window.scores or None, labels=labels)
        prompt = replace_prompt_picture_marks(rendered, window.docs)
        tokens = self._tokens.count(prompt)
        if tokens > available:
            raise ContextOverflowError(
                f"A prompt with {len(marks)} pictures needs {tokens} tokens, but {available} are available: the "
                f"{self._context} tokens of the context minus the tokens of the reply",
                remedy=("Lower --depth, use --method sliding, or use" if len(marks) > 1 else "Use")
                + " smaller pictures or a model with a longer context",
            )
        return FittedPrompt(prompt=prompt, tokens=tokens, passages=(PICTURE,) * len(marks))

    def _search(self, attempt: _Attempt, *, fixed: int, available: int) -> FittedPrompt:
        """Return the prompt with the largest cap on passage lengths that fits, or with the lowest cap if none fits."""
        longest = max(attempt.lengths, default=0)
        highest = longest if self._max is None else min(longest, self._max)
        lowest = min(self._floor, highest)
        level = prompt_passage_token_cap(attempt.lengths, available - fixed)
        fits, fails = lowest - 1, highest + 1  # exclusive bounds: neither cap has been tried
        best: FittedPrompt | None = None
        for tries in itertools.count():
            # The cap is strictly between the bounds and replaces one of them, so the loop ends. After `_ESTIMATES`
            # tries, it bisects the range.
            cap = (fits + fails) // 2 if tries >= _ESTIMATES else min(max(level, fits + 1), fails - 1)
            fitted = attempt.render(cap)
            # Tokens outside the passages are now known to be fitted.tokens - passage_tokens(cap).
            level = prompt_passage_token_cap(attempt.lengths, available - fitted.tokens + attempt.passage_tokens(cap))
            if fitted.tokens <= available:
                best, fits = fitted, cap
            else:
                fails = cap
            if fails - fits <= 1 or (best is fitted and level <= cap):
                break
        return best or fitted

    def _overflow(self, count: int, *, needed: int, fixed: int, available: int) -> ContextOverflowError:
        return ContextOverflowError(
            f"A prompt with {count} passages needs {needed} tokens with every passage truncated to {self._floor} "
            f"tokens (instruction and query alone: {fixed}), but {available} are available: a context of "
            f"{self._context} minus the reply",
            remedy=("Lower --depth, use --method sliding, lower" if count > 1 else "Lower")
            + " --min-passage-tokens, or use a model with a longer context",
        )


def check_prompt_passage_limits(floor: int, max_passage_tokens: int | None) -> None:
    """Check the limits on the length of passages."""
    if floor < 0:
        raise UsageError(f"--min-passage-tokens is {floor}", expected="at least 0")
    if max_passage_tokens is not None and max_passage_tokens < max(1, floor):
        raise UsageError(
            f"--max-passage-tokens is {max_passage_tokens} and --min-passage-tokens is {floor}",
            expected="a maximum of at least 1 that is not below the minimum",
            remedy="Increase or omit --max-passage-tokens; if it is at least 1, decreasing the minimum helps too",
        )


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A window that can be rendered with its passages truncated to any number of tokens (cap)."""

    template: PromptTemplate
    query: str
    scores: Sequence[float] | None
    labels: Sequence[str] | None
    texts: Sequence[str]
    lengths: Sequence[int]
    tokens: CachedTokenCounter

    def passage_tokens(self, cap: int) -> int:
        """Return the number of tokens of the truncated passages on their own."""
        return sum(min(length, cap) for length in self.lengths)

    def fill(self, passages: Sequence[str]) -> Prompt:
        """Return the prompt with the given texts as passages."""
        return self.template.render(self.query, passages, scores=self.scores, labels=self.labels)

    def render(self, cap: int) -> FittedPrompt:
        """Render the prompt with passages of at most ``cap`` tokens, and count its tokens."""
        longer = [text for text, length in zip(self.texts, self.lengths, strict=True) if length > cap]
        cuts = iter(self.tokens.cut(longer, cap) if longer else ())
        pairs = zip(self.texts, self.lengths, strict=True)
        shown = [text if length <= cap else next(cuts) for text, length in pairs]
        prompt = self.fill(shown)
        tokens = self.tokens.count(prompt)
        if not longer:
            return FittedPrompt(prompt=prompt, tokens=tokens, passages=tuple(shown))
        dropped = tuple(max(0, length - cap) for length in self.lengths)
        return FittedPrompt(
            prompt=prompt, tokens=tokens, passages=tuple(shown), cut=len(longer), cap=cap, dropped=dropped
        )


def _prompt_passage_cache_size(key: _PassageKey, text: str) -> int:
    return ENTRY_BYTES + sys.getsizeof(key[0]) + sys.getsizeof(text)
