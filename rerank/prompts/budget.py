"""Fit prompts into a context: passages are truncated to a common length; instruction and query are never truncated.

The token count of a prompt is not the sum of the counts of its parts, since a token can span two parts. The length to
which passages are truncated is therefore estimated from their token counts, and the returned prompt is counted as a
whole.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rerank.errors import ContextOverflowError, ensure
from rerank.prompts.base import PICTURE, Prompt, TokenCounter
from rerank.prompts.bounded_memo import ENTRY_BYTES, BoundedMemo
from rerank.prompts.passages import (
    PromptEscaping,
    collapse_whitespace,
    escape_turn_marks,
    passage_text,
    picture_marks,
    replace_picture_marks,
)
from rerank.prompts.template import PromptTemplate
from rerank.types import Document, Window

#: Key of a cached passage: text, title and picture of the document, and the fields of `PromptEscaping`. The document
#: itself is not the key, because strings cache their hash and frozen dataclasses do not.
_PassageKey = tuple[str, str, str, bool, bool]

#: Number of estimated caps to try before bisection.
_ESTIMATES = 6
#: The tokens of a text are counted up to this many characters, and more for each token that a prompt can show.
_COUNTED, _COUNTED_PER_TOKEN = 1 << 18, 16
#: Maximum size of the memo of passages in bytes.
_MEMO_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPrompt:
    """A prompt that fits into the context."""

    prompt: Prompt
    tokens: int  # of the whole prompt
    passages: tuple[str, ...] = ()
    #: Number of tokens that were cut from each passage; empty if no passage was truncated.
    dropped: tuple[int, ...] = ()


def find_cap(lengths: Sequence[int], budget: int) -> int:
    """Return the largest cap on passage lengths for which sum(min(length, cap)) <= budget (water-filling).

    The cap is at most the longest length, and 0 if the budget is negative.

    >>> find_cap([10, 2, 10], 12)
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

    Passages keep at least ``floor`` tokens, and at most ``max_passage_tokens`` even if they fit. ``context_size`` is at
    most that of the model, which is used if it is None.
    """

    def __init__(
        self,
        tokens: TokenCounter,
        *,
        floor: int = 32,
        max_passage_tokens: int | None = None,
        context_size: int | None = None,
    ) -> None:
        check_limits(floor, max_passage_tokens)
        if context_size is not None:
            ensure(
                0 < context_size <= tokens.context_size,
                f"--context-size is {context_size}",
                expected=f"1 to {tokens.context_size}, the context size of the model",
                remedy="Omit --context-size to use the whole context",
            )
        self._tokens, self._floor, self._max, self._context_size = tokens, floor, max_passage_tokens, context_size
        #: Passages and their numbers of tokens, since windows and rounds of a query share documents.
        self._passages: BoundedMemo[_PassageKey, tuple[str, int]] = BoundedMemo(
            _MEMO_BYTES, lambda key, passage: ENTRY_BYTES + sys.getsizeof(key[0]) + sys.getsizeof(passage[0])
        )
        #: Marks of turns that the model's tokenizer has in addition to the known ones.
        self.turn_marks: tuple[str, ...] = getattr(tokens, "turn_marks", ())

    @cached_property
    def _context(self) -> int:
        """The context size in tokens. It is read only when needed, since it may require a request to a server."""
        return self._context_size or self._tokens.context_size

    def fit(
        self, template: PromptTemplate, window: Window, *, reply_tokens: int, labels: Sequence[str] | None = None
    ) -> FittedPrompt:
        """Render the prompt of a window, truncating its passages as little as possible.

        All passages longer than a common cap are truncated to this cap, which is the largest that fits (except for
        effects of tokens that span two parts). Only a few prompts have to be counted: one without passages, and usually
        one or two more. Pictures are never resized. ``labels`` are the identifiers of the passages; 1, 2, ... if None.
        """
        available = self._context - reply_tokens
        if window.query.instruction:
            template = template.with_instruction(escape_turn_marks(window.query.instruction, self.turn_marks))
        if template.pictures:
            return self._fit_pictures(template, window, available=available, labels=labels)
        escaping, scores = template.escaping(labels), window.scores or None
        query = escaping.escape(collapse_whitespace(window.query.text), self.turn_marks)
        if len(query) > _COUNTED and (length := self._lengths_of([query])[0]) > self._context:
            raise ContextOverflowError(
                f"The query has about {length} tokens, but the context has {self._context}",
                remedy="Shorten the query, or use a model with a longer context",
            )
        texts, lengths = self._passages_of(window.docs, escaping)

        def truncate(cap: int) -> FittedPrompt:
            pairs = zip(texts, lengths, strict=True)
            shown = tuple([text if length <= cap else self._tokens.cut(text, cap) for text, length in pairs])
            prompt = template.render(query, shown, scores=scores, labels=labels)
            tokens = self._tokens.count(prompt)
            dropped = tuple([max(0, length - cap) for length in lengths])
            return FittedPrompt(prompt=prompt, tokens=tokens, passages=shown, dropped=dropped if any(dropped) else ())

        longest = max(lengths, default=0)
        highest = longest if self._max is None else min(longest, self._max)
        # In a large context, the first estimate below is certainly ``highest``, so that nothing has to be estimated.
        needed = sum([min(length, highest) for length in lengths])
        if 2 * needed <= available and (whole := truncate(highest)).tokens + needed <= available:
            return whole
        fixed = self._tokens.count(template.render(query, [""] * len(texts), scores=scores, labels=labels))
        level = find_cap(lengths, available - fixed)
        fits, fails = min(self._floor, highest) - 1, highest + 1  # exclusive bounds: neither cap has been tried
        best: FittedPrompt | None = None
        for tries in itertools.count():
            # The cap is strictly between the bounds and replaces one of them, so the loop ends. After `_ESTIMATES`
            # tries, it bisects the range.
            cap = (fits + fails) // 2 if tries >= _ESTIMATES else min(max(level, fits + 1), fails - 1)
            fitted = truncate(cap)
            # Tokens outside the passages are now known to be fitted.tokens minus those of the truncated passages.
            level = find_cap(lengths, available - fitted.tokens + sum([min(length, cap) for length in lengths]))
            if fitted.tokens <= available:
                best, fits = fitted, cap
            else:
                fails = cap
            if fails - fits <= 1 or (best is fitted and level <= cap):
                break
        if best is not None:
            return best
        remedy = "Lower --depth, use --method sliding, lower" if len(texts) > 1 else "Lower"
        remedy += " --min-passage-tokens, or use a model with a longer context"
        if available < fixed:  # even passages without text do not fit
            remedy = "Raise --context-size or use" if self._context_size else "Use"
            remedy += " a model with a longer context" + (
                " or lower --depth" if len(texts) > 1 and available > 0 else ""
            )
        raise ContextOverflowError(
            f"A prompt with {len(texts)} passages needs {fitted.tokens} tokens with every passage truncated to "
            f"{self._floor} tokens (instruction and query alone: {fixed}), but {available} are available: a "
            f"context of {self._context} minus the reply",
            remedy=remedy,
        )

    def _passages_of(self, docs: Sequence[Document], escaping: PromptEscaping) -> tuple[list[str], list[int]]:
        """Return the passages of documents, before they are truncated, and their numbers of tokens."""
        keys = [(doc.text, doc.title, doc.image, escaping.brackets, escaping.letters) for doc in docs]
        stored = self._passages.get_all(keys)
        counted: dict[_PassageKey, tuple[str, int]] = {}
        if None in stored:
            missing = {key: doc for key, doc, known in zip(keys, docs, stored, strict=True) if known is None}
            new = [escaping.escape(passage_text(doc), self.turn_marks) for doc in missing.values()]
            counted = dict(zip(missing, zip(new, self._lengths_of(new), strict=True), strict=True))
            self._passages.put_all(counted.items())
        passages = [known or counted[key] for key, known in zip(keys, stored, strict=True)]
        return [text for text, _ in passages], [length for _, length in passages]

    def _lengths_of(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text, extrapolated if its beginning has more than a prompt can show."""
        most = self._max or self._context
        end = _COUNTED + _COUNTED_PER_TOKEN * most
        lengths = self._tokens.lengths([text[:end] for text in texts])
        for index, text in enumerate(texts):
            if len(text) > end:
                is_enough = lengths[index] > most
                lengths[index] = lengths[index] * len(text) // end if is_enough else self._tokens.lengths([text])[0]
        return lengths

    def _fit_pictures(
        self, template: PromptTemplate, window: Window, *, available: int, labels: Sequence[str] | None
    ) -> FittedPrompt:
        """Render the prompt of a window of pictures, which are not resized; their texts are cut to a common length."""
        query = escape_turn_marks(collapse_whitespace(window.query.text.replace(PICTURE, " ")), self.turn_marks)
        marks = picture_marks(window.docs, mixed=template.mixed)
        texts, lengths = [""] * len(marks), [0] * len(marks)
        if template.mixed:
            beside = [replace(doc, image="", text=doc.text.replace(PICTURE, " ")) for doc in window.docs]
            texts, lengths = self._passages_of(beside, template.escaping(labels))

        def render(cap: int) -> tuple[Prompt, int]:
            pairs = zip(texts, lengths, strict=True)
            shown = [text if length <= cap else self._tokens.cut(text, cap) for text, length in pairs]
            passages = [mark + text for mark, text in zip(marks, shown, strict=True)]
            rendered = template.render(query, passages, scores=window.scores or None, labels=labels)
            prompt = replace_picture_marks(rendered, window.docs)
            return prompt, self._tokens.count(prompt)

        cap = min(max(lengths, default=0), self._max or sys.maxsize)
        lowest = min(self._floor, cap)
        prompt, tokens = render(cap)
        while tokens > available and cap > lowest:
            kept = sum(min(length, cap) for length in lengths)
            cap = max(lowest, min(cap - 1, find_cap(lengths, kept - (tokens - available))))
            prompt, tokens = render(cap)
        if tokens > available:
            raise ContextOverflowError(
                f"A prompt with {len(marks)} pictures needs {tokens} tokens, but {available} are available: the "
                f"{self._context} tokens of the context minus the tokens of the reply",
                remedy=("Lower --depth, use --method sliding, or use" if len(marks) > 1 else "Use")
                + " smaller pictures or a model with a longer context",
            )
        dropped = tuple(max(0, length - cap) for length in lengths)
        passages = tuple(PICTURE if mark else text for mark, text in zip(marks, texts, strict=True))
        return FittedPrompt(prompt=prompt, tokens=tokens, passages=passages, dropped=dropped if any(dropped) else ())


def check_limits(floor: int, max_passage_tokens: int | None) -> None:
    """Check the limits on the length of passages."""
    ensure(floor >= 0, f"--min-passage-tokens is {floor}", expected="at least 0")
    ensure(
        max_passage_tokens is None or max_passage_tokens >= max(1, floor),
        f"--max-passage-tokens is {max_passage_tokens} and --min-passage-tokens is {floor}",
        expected="a maximum of at least 1 that is not below the minimum",
        remedy="Increase or omit --max-passage-tokens; if it is at least 1, decreasing the minimum helps too",
    )
