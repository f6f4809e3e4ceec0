"""Evidence: find the sentences or words of a passage that receive attention from the query.

A prompt shows a passage on one line with a label and a title, with some brackets replaced, and possibly truncated. The
functions here map the tokens of a prompt back to the original text of the document and add up their scores by sentence
or word. Offsets are in Unicode code points of `Document.text`, start inclusive, end exclusive.

Texts in any script are divided without a model or dictionary. A sentence ends

- at an empty line, and before a line that begins with a bullet;
- after ``.``, ``!``, ``?`` or an ellipsis, including closing quotes and brackets, if whitespace follows and the next
  word does not start with a lower-case letter. A full stop after whitespace (as in tokenized text) always ends a
  sentence. A full stop after an initial or a common abbreviation does not;
- after the end marks of scripts that need no space after them, such as the ideographic full stop and the danda.

Pieces that are still long (such as lists of words, or text in scripts without end marks, such as Thai) are divided at
line breaks; if there are none, at colons and semicolons; then at commas; then at whitespace; and otherwise between any
two characters. Splitters with rules per language would be better for languages with other abbreviations, but they would
be an additional dependency.
"""

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rerank.errors import DataError, UsageError, ensure
from rerank.prompts.passages import collapse_whitespace, passage_text
from rerank.prompts.template import PromptTemplate
from rerank.types import Document

#: Minimum score of a span; the same as the default for Cohere's ``relevant_spans``.
THRESHOLD = 0.1
#: Units into which a text can be divided. Each unit is scored by the attention that its tokens receive.
EvidenceUnit = Literal["sentence", "word"]

#: Code points of marks: a character that the query does not contain is used to find the passages in a prompt.
_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSpan:
    """One or more consecutive sentences or words of a document's text."""

    start: int  # offset of the first character, in code points of the text
    end: int  # offset of the end (exclusive)
    #: Share of the passage's attention that the span receives, from 0 to 1. Shares allow comparing spans within a
    #: passage; they do not tell whether the passage is relevant.
    score: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise DataError(f"A span extends from {self.start} to {self.end}", expected="0 <= start < end")
        if not 0 <= self.score <= 1:
            raise DataError(f"A span has the score {self.score}", expected="a share from 0 to 1")


def find_prefixes(template: PromptTemplate, query: str, passages: Sequence[str]) -> list[str]:
    """Return the text before each passage in its span of the prompt, such as ``[1] ``."""

    def spans(texts: Sequence[str]) -> list[str]:
        """Return the text of each passage's span in the last user turn."""
        content = next(turn.content for turn in reversed(template.render(query, texts)) if turn.role == "user")
        return [content[start:end] for start, end in template.spans(query, texts)[0]]

    mark = next(mark for mark in map(chr, _PRIVATE_USE) if mark not in query)
    marked = spans([mark] * len(passages))
    prefixes = [text.partition(mark)[0] for text in marked]
    escape = template.escaping().escape
    if any(text.count(mark) != 1 for text in marked) or any(
        not text.startswith((prefix + escape(passage)).rstrip())
        for text, prefix, passage in zip(spans(passages), prefixes, passages, strict=True)
    ):
        raise UsageError(
            f"Prompt {template.name!r} shows passages more than once, or changes them",
            expected="for evidence, a prompt that shows every passage once and unchanged",
            remedy="Use --prompt icr_qa",
        )
    return prefixes


def map_passage(document: Document, shown: str) -> list[int | None]:
    r"""Return, for each character of a passage that a prompt shows, its position in the text of its document.

    ``shown`` may be truncated: a prefix of `passage_text`, except for brackets. A space before a word has the position
    of the word. The position is None for characters of the title and of its label.

    >>> map_passage(Document(id="1", text=" two \n lines"), "two li")
    [1, 2, 3, 7, 7, 8]
    """
    # In the prompt, a single space precedes every word, except the first word of a passage without a title.
    positions: list[int | None] = []
    for word in re.finditer(r"\S+", document.text):
        positions += [word.start(), *range(word.start(), word.end())]
    if not document.title.strip():
        return positions[1 : 1 + len(shown)]
    title = len(passage_text(document)) - len(collapse_whitespace(document.text))
    return ([None] * (title - bool(positions)) + positions)[: len(shown)]


def score_passage(
    document: Document, shown: str, prefix: str, tokens: Sequence[tuple[int, float]], unit: EvidenceUnit = "sentence"
) -> tuple[EvidenceSpan, ...]:
    """Score the sentences or words of a document from the tokens of its passage in a prompt.

    ``tokens`` are pairs of the position of a token within the span and its score. The last unit may be truncated.
    """
    positions = map_passage(document, shown)
    # A token may begin with the space before the passage.
    first = len(prefix.rstrip())
    offsets = [(max(0, position - len(prefix)), score) for position, score in tokens if position >= first]
    located = [
        (position, score)
        for offset, score in offsets
        if offset < len(positions) and (position := positions[offset]) is not None
    ]
    end = next((position + 1 for position in reversed(positions) if position is not None), 0)
    return score_units(document.text[:end], located, unit)


def score_units(
    text: str, tokens: Sequence[tuple[int, float]], unit: EvidenceUnit = "sentence"
) -> tuple[EvidenceSpan, ...]:
    """Divide a text into sentences or words and score them by the attention that their tokens receive.

    The score of a unit is the sum of max(0, c_t) over its tokens, divided by the same sum over all tokens; it is 0 if
    no token has a positive score. Sums are not divided by the length of the unit: means find planted sentences about as
    often (docs/evidence.md), but only sums are shares. ``tokens`` are pairs of the position of a token's first
    character in the text and c_t.

    >>> tokens = [(0, 0.5), (3, 1.0), (10, -0.1), (13, 0.5)]
    >>> [span.score for span in score_units("It rains. It snows.", tokens)]
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


def select_evidence(
    units: Sequence[EvidenceSpan], *, threshold: float | None = THRESHOLD, max_spans: int | None = None
) -> tuple[EvidenceSpan, ...]:
    """Select the units of a passage with a score of at least ``threshold``, and return them in the order of the text.

    Adjacent selected units form one span; its score is the sum of theirs. If the threshold is None, all units are
    selected and not merged, for a map of the text. Of the spans, the ``max_spans`` with the highest scores are kept.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"threshold is {threshold!r}", expected="a share of the attention from 0 to 1")
    none_or_positive = max_spans is None or max_spans >= 1
    ensure(none_or_positive, f"max_spans is {max_spans!r}", expected="a whole number from 1, or None for all")
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


#: Longest sentence in characters, and in scripts without spaces, whose characters carry more information.
_LONGEST, _LONGEST_UNSPACED = 400, 140

_CLOSING = "\"'”’»)\\]"
_BREAK = re.compile(
    "\n[^\\S\n]*\n"  # an empty line
    "|\n(?=[^\\S\n]*[-*•‣▪·][^\\S\n])"  # a bullet follows
    f"|[.!?…‥]+[{_CLOSING}]*(?=\\s)"
    "|[。！？｡．؟۔।॥։።။។]+[」』”’）】》〉\"')\\]]*"
)
#: Abbreviations that are usually followed by a name, and abbreviations that are followed by a number.
_BEFORE_NAMES = re.compile(r"(capt|cf|col|dr|gen|gov|lt|mr|mrs|ms|prof|rev|sen|sgt|st|vs)\Z", re.IGNORECASE)
_BEFORE_NUMBERS = re.compile(r"(approx|art|ca|ch|eqs?|figs?|nos?|nr|op|pp?|refs?|sec|vols?)\Z", re.IGNORECASE)
_NONSPACE = re.compile(r"\S")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+\Z")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_WORD = re.compile(rf"(?:(?!{_UNSPACED.pattern})\S)+|\S")
#: Patterns of the places where a long piece can be divided, best first. The division is at the end of a match.
_DIVISIONS = (
    re.compile("\n"),
    re.compile("[;；:：](?=\\s)|[；：]"),
    re.compile("[,，،、](?=\\s)|[，、]"),
    re.compile(r"\s"),
)


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Return start and end (exclusive) of each sentence in code points, without the whitespace around it.

    Every character except whitespace belongs to exactly one sentence.

    >>> split_sentences("It rains. Snow (a lot!) falls")
    [(0, 9), (10, 29)]
    """
    breaks = _BREAK.finditer(text)
    ends = (match.end() for match in breaks if match[0][0] not in ".!?…‥" or _ends_sentence(text, match))
    sentences: list[tuple[int, int]] = []
    start = 0
    for end in [*ends, len(text)]:
        # A number or mark alone, such as the number of a list item, belongs to the text that follows.
        if end < len(text) and not any(map(str.isalpha, text[start:end])):
            continue
        sentences += _trim_pieces(text, start, end)
        start = end
    return sentences


def split_words(text: str) -> list[tuple[int, int]]:
    """Divide a text at whitespace; in scripts without spaces, every character with its combining marks is a word.

    Returns start and end (exclusive) of each word in code points.

    >>> split_words("It rains. \u96e8\u5929")
    [(0, 2), (3, 9), (10, 11), (11, 12)]
    """
    words: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        start = match.start()
        if words and words[-1][1] == start and unicodedata.category(text[start])[0] == "M":
            start = words.pop()[0]
        words.append((start, match.end()))
    return words


_SPLITTERS: Mapping[EvidenceUnit, Callable[[str], list[tuple[int, int]]]] = {
    "sentence": split_sentences,
    "word": split_words,
}


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Return whether a full stop, exclamation mark, question mark or ellipsis ends a sentence."""
    before, after = text[max(0, match.start() - 40) : match.start()], text[match.end() : match.end() + 40].lstrip()
    if match[0][0] == "." and (not before or before[-1].isspace()):
        return True
    if after[:1].islower():
        return False
    if match[0] != ".":
        return True
    last = _LAST_WORD.search(before)
    word = last[0] if last else ""
    # A full stop after an initial (J. Smith, U.S. Army) or an abbreviation does not end a sentence.
    is_initial = len(word.rpartition(".")[2]) == 1 and word[-1].isalpha() and word[-1].isupper()
    is_abbreviation = _BEFORE_NAMES.match(word) or (after[:1].isdigit() and _BEFORE_NUMBERS.match(word))
    return not is_initial and not is_abbreviation


def _trim_pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a sentence without surrounding whitespace, or its pieces if it is too long."""
    end = start + len(text[start:end].rstrip())
    while (first := _NONSPACE.search(text, start, end)) is not None:
        start = first.start()
        beginning = min(end, start + _LONGEST)
        unspaced = len(_UNSPACED.findall(text, start, beginning))
        limit = _LONGEST_UNSPACED if 2 * unspaced > beginning - start else _LONGEST
        middle = end if end - start <= limit else _divide_long(text, start, end, limit)
        yield start, start + len(text[start:middle].rstrip())
        start = middle


def _divide_long(text: str, start: int, end: int, limit: int) -> int:
    """Return where to divide a long piece: the last match, from ``limit / 2``, of the first pattern that matches."""
    for division in _DIVISIONS:
        places = [match.end() for match in division.finditer(text, start + limit // 2, start + limit)]
        if places:
            return places[-1]
    middle = start + limit
    # Do not divide between a letter and its combining marks, or in a sequence that is displayed as one character.
    while middle < end and (unicodedata.category(text[middle])[0] == "M" or "\u200d" in text[middle - 1 : middle + 1]):
        middle += 1
    return middle
