"""Evidence: find the sentences or words of a passage that receive attention from the query.

A prompt shows a passage on one line with a label and a title, with some brackets replaced, and possibly truncated. The
functions here map the tokens of a prompt back to the original text of the document and add up their scores by sentence
or word. Offsets are in Unicode code points of `Document.text`, start inclusive, end exclusive.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rerank.errors import DataError, UsageError
from rerank.judges.attention.sentences import split_attention_judge_sentences, split_attention_judge_words
from rerank.prompts.passages import collapse_passage_whitespace, passage_text
from rerank.prompts.template import PromptTemplate
from rerank.types import Document

#: Minimum score of a span; the same as the default for Cohere's ``relevant_spans``.
THRESHOLD = 0.1

#: Units into which a text can be divided. Each unit is scored by the attention that its tokens receive.
EvidenceUnit = Literal["sentence", "word"]
_SPLITTERS: Mapping[EvidenceUnit, Callable[[str], list[tuple[int, int]]]] = {
    "sentence": split_attention_judge_sentences,
    "word": split_attention_judge_words,
}

_WORD = re.compile(r"\S+")
#: Code points of marks: a character that the query does not contain is used to find the passages in a prompt.
_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSpan:
    """One or more consecutive sentences or words of a document's text.

    Attributes:
        start: Offset of the first character, in code points of the text.
        end: Offset of the end (exclusive).
        score: Share of the passage's attention that the span receives, from 0 to 1. Shares allow comparing spans within
            a passage; they do not tell whether the passage is relevant.
    """

    start: int
    end: int
    score: float

    def __post_init__(self) -> None:
        """Check the span and the score."""
        if not 0 <= self.start < self.end:
            raise DataError(f"A span extends from {self.start} to {self.end}", expected="0 <= start < end")
        if not 0 <= self.score <= 1:
            raise DataError(f"A span has the score {self.score}", expected="a share from 0 to 1")


def find_attention_judge_prefixes(template: PromptTemplate, query: str, passages: Sequence[str]) -> list[str]:
    """Return the text before each passage in its part (span) of the prompt, such as ``[1] ``.

    Args:
        template: The prompt template.
        query: Text of the query, as passed to `PromptTemplate.render`.
        passages: Texts of the passages, as passed to `PromptTemplate.render`.
    """
    mark = next(mark for mark in map(chr, _PRIVATE_USE) if mark not in query)
    marked = _attention_judge_passage_spans(template, query, [mark] * len(passages))
    prefixes = [text.partition(mark)[0] for text in marked]
    expected = map(template.escaping().escape, passages)
    shown = _attention_judge_passage_spans(template, query, passages)
    if any(text.count(mark) != 1 for text in marked) or any(
        not text.startswith((prefix + passage).rstrip())
        for text, prefix, passage in zip(shown, prefixes, expected, strict=True)
    ):
        raise UsageError(
            f"Prompt {template.name!r} shows passages more than once, or changes them",
            expected="for evidence, a prompt that shows every passage once and unchanged",
            remedy="Use --prompt icr_qa",
        )
    return prefixes


def _attention_judge_passage_spans(template: PromptTemplate, query: str, passages: Sequence[str]) -> list[str]:
    """Return the text of each passage's span in the last user turn."""
    content = next(turn.content for turn in reversed(template.render(query, passages)) if turn.role == "user")
    return [content[start:end] for start, end in template.spans(query, passages)[0]]


def map_attention_judge_passage(document: Document, shown: str) -> list[int | None]:
    r"""Map the characters of a passage in a prompt to the text of its document.

    Args:
        document: The document.
        shown: The passage in the prompt, which may be truncated: a prefix of `passage_text`, except for brackets.

    Returns:
        For each character of ``shown``, its position in `Document.text`. A space before a word has the position of the
        word. The position is None for characters of the title and of its label.

    >>> map_attention_judge_passage(Document(id="1", text=" two \n lines"), "two li")
    [1, 2, 3, 7, 7, 8]
    """
    # In the prompt, a single space precedes every word, except the first word of a passage without a title.
    positions: list[int | None] = []
    for word in _WORD.finditer(document.text):
        positions += [word.start(), *range(word.start(), word.end())]
    if not document.title.strip():
        return positions[1 : 1 + len(shown)]
    title = len(passage_text(document)) - len(collapse_passage_whitespace(document.text))
    return ([None] * (title - bool(positions)) + positions)[: len(shown)]


def score_passage_by_attention(
    document: Document, shown: str, prefix: str, tokens: Sequence[tuple[int, float]], unit: EvidenceUnit = "sentence"
) -> tuple[EvidenceSpan, ...]:
    """Score the sentences or words of a document from the tokens of its passage in a prompt.

    Args:
        document: The document.
        shown: The passage in the prompt, which may be truncated.
        prefix: The text before the passage in its part (span) of the prompt.
        tokens: Pairs of the position of a token within the span and its score.
        unit: Whether to score sentences or words.

    Returns:
        All units of the document's text that the prompt shows, in order; the last one may be truncated.
    """
    positions = map_attention_judge_passage(document, shown)
    # A token may begin with the space before the passage.
    first = len(prefix.rstrip())
    offsets = [(max(0, position - len(prefix)), score) for position, score in tokens if position >= first]
    located = [
        (position, score)
        for offset, score in offsets
        if offset < len(positions) and (position := positions[offset]) is not None
    ]
    end = next((position + 1 for position in reversed(positions) if position is not None), 0)
    return score_attention_judge_units(document.text[:end], located, unit)


def score_attention_judge_units(
    text: str, tokens: Sequence[tuple[int, float]], unit: EvidenceUnit = "sentence"
) -> tuple[EvidenceSpan, ...]:
    """Divide a text into sentences or words and score them by the attention that their tokens receive.

    The score of a unit is the sum of max(0, c_t) over its tokens, divided by the same sum over all tokens; it is 0
    if no token has a positive score. Sums are not divided by the length of the unit: means find planted sentences
    about as often (docs/evidence.md), but only sums are shares.

    Args:
        text: The text, up to the point where it was truncated.
        tokens: Pairs of the position of a token's first character in the text and its score c_t.
        unit: Whether to score sentences or words.

    Returns:
        All units, in the order of the text.

    >>> tokens = [(0, 0.5), (3, 1.0), (10, -0.1), (13, 0.5)]
    >>> [span.score for span in score_attention_judge_units("It rains. It snows.", tokens)]
    [0.75, 0.25]
    """
    units = _SPLITTERS[unit](text)
    starts = [start for start, _ in units]
    sums = [0.0] * len(units)
    for position, score in tokens:
        # NaN and infinity, which a model may return, count as no attention.
        sums[max(0, bisect_right(starts, position) - 1)] += score if 0 < score < math.inf else 0.0
    total = sum(sums)
    return tuple(
        EvidenceSpan(start=start, end=end, score=min(1.0, value / total) if total > 0 else 0.0)
        for (start, end), value in zip(units, sums, strict=True)
    )


def select_attention_judge_evidence(
    units: Sequence[EvidenceSpan], *, threshold: float | None = THRESHOLD, max_spans: int | None = None
) -> tuple[EvidenceSpan, ...]:
    """Select the sentences or words with a high score and merge adjacent ones.

    Args:
        units: All units of a passage, from `score_attention_judge_units`.
        threshold: Minimum score of a unit. None selects all units and does not merge them, for a map of the text.
        max_spans: Maximum number of spans; the spans with the highest scores are kept. None for all.

    Returns:
        Spans in the order of the text. Adjacent selected units form one span; its score is the sum of theirs.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"threshold is {threshold!r}", expected="a share of the attention from 0 to 1")
    if max_spans is not None and max_spans < 1:
        raise UsageError(f"max_spans is {max_spans!r}", expected="a whole number from 1, or None for all")
    merged: list[EvidenceSpan] = []
    previous = -2
    for index, unit in enumerate(units):
        if threshold is not None and unit.score < threshold:
            continue
        if threshold is not None and index == previous + 1:
            last = merged.pop()
            unit = replace(last, end=unit.end, score=min(1.0, last.score + unit.score))
        merged.append(unit)
        previous = index
    best = sorted(merged, key=lambda span: -span.score)[:max_spans]
    return tuple(sorted(best, key=lambda span: span.start))
