"""Plain text -> the places where it names a passage. Knows how a passage can be named, not what a ranking is.

The text is cut into tokens once and walked over once, so time is linear in its length whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

#: Longer numbers name nothing (and Python refuses to read very long ones).
MAX_DIGITS = 100

Form = Literal["bracket", "list", "label", "bare"]

#: Marks of emphasis, quotation and escape are not tokens: ``**[2]**`` is ``[2]``.
_TOKEN = re.compile(r"(?P<number>\d+)|(?P<word>[^\W\d_]+)|(?P<line>\n)|(?P<mark>[^\s*`\"'“”‘’_\\])")
_SINGULAR = (
    "passage",
    "document",
    "doc",
    "text",
    "paragraph",
    "snippet",
    "article",
    "candidate",
    "item",
    "id",
    "result",
)
_OTHER = ("passageid", "docid", "documentid", "psg", "identifier", "dokument", "absatz", "documento", "pasaje")
_LABELS = frozenset((*_SINGULAR, *(f"{word}s" for word in _SINGULAR), *_OTHER, "identifiers", "dokumente", "pasajes"))
_CJK_LABELS = ("段落", "文档", "文章", "段", "篇章", "文書", "パッセージ", "문서", "단락")
_JOINING_WORDS = frozenset(
    ("and", "then", "followed", "by", "und", "dann", "et", "puis", "y", "e", "luego", "和", "然后", "と")
)
_HEAD_WORDS = frozenset(("rank", "top", "no", "number", "place", "position", "nr"))
_JOINING_MARKS = frozenset(">=,;|/&+-–—•·.:)([]{}#~")
_LISTING_MARKS = frozenset(",;>=|#:&")
_AFTER_ENUMERATOR = frozenset(".):")


class Token(NamedTuple):
    """A number, a word, a line break or one other mark."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Mention:
    """One naming of a passage.

    Attributes:
        number: As said.
        form: ``bracket`` is [2], ``list`` a number in [2, 1], ``label`` is Passage 2, ``bare`` a number by itself.
        start: Index of its first token.
        end: Index behind its last one.
    """

    number: int
    form: Form
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """Cut plain text into tokens; very long numbers become words."""
    found = []
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind == "number" and len(match[0]) > MAX_DIGITS:
            kind = "word"
        found.append(Token(kind, match[0], match.start()))
    return found


def is_label(token: Token) -> bool:
    """Whether a word announces an identifier, as in "Passage 2"."""
    return token.kind == "word" and (token.text.lower() in _LABELS or token.text.endswith(_CJK_LABELS))


def joins(tokens: Sequence[Token], start: int, end: int, *, heads: bool = False) -> bool:
    """Whether the tokens of ``start .. end - 1`` only join: separators, labels, "and", enumerators such as "2."."""
    for index in range(start, end):
        token = tokens[index]
        if token.kind == "mark":
            allowed = token.text in _JOINING_MARKS
        elif token.kind == "word":
            word = token.text.lower()
            allowed = word in _JOINING_WORDS or is_label(token) or (heads and word in _HEAD_WORDS)
        elif token.kind == "number":
            allowed = index + 1 < end and tokens[index + 1].text in _AFTER_ENUMERATOR
        else:
            allowed = True
        if not allowed:
            return False
    return True


def mentions_of(tokens: Sequence[Token]) -> tuple[list[Mention], bool]:
    """All namings in the order they occur, and whether one was cut off by the end of the reply.

    The number of an unclosed last bracket is left out: "[1" may have been on its way to "[12]".
    """
    found: list[Mention] = []
    cut, index = False, 0
    while index < len(tokens):
        token = tokens[index]
        if token.text == "[":
            some, index, cut = _bracketed(tokens, index)
            found += some
        elif is_label(token):
            some, index = _labelled(tokens, index)
            found += some
        elif token.kind == "number":
            # "2] > [1]": the prompt, or a prefilled answer, ended with the opening bracket.
            primed = index == 0 and len(tokens) > 1 and tokens[1].text == "]"
            found.append(Mention(int(token.text), "bracket" if primed else "bare", index, index + 1))
            index += 1
        else:
            index += 1
    return found, cut


def _bracketed(tokens: Sequence[Token], opening: int) -> tuple[list[Mention], int, bool]:
    """What the bracket at ``opening`` names, where to go on, and whether the reply ended inside it."""
    end = opening + 1
    while end < len(tokens) and tokens[end].text not in "[]":
        end += 1
    inside = tokens[opening + 1 : end]
    cut = end == len(tokens)
    listing = all(
        t.kind in ("number", "line") or t.text in _LISTING_MARKS or is_label(t) or t.text == "and" for t in inside
    )
    numbers = [opening + 1 + offset for offset, t in enumerate(inside) if t.kind == "number"]
    closed = not cut and tokens[end].text == "]"
    if not listing or not numbers:
        return [], opening + 1, False
    if closed or cut:
        dropped = cut and numbers[-1] == end - 1
        form: Form = "list" if len(numbers) > 1 else "bracket"
        kept = numbers[:-1] if dropped else numbers
        return [Mention(int(tokens[i].text), form, i, i + 1) for i in kept], end + closed, dropped
    if len(numbers) == 1 and tokens[numbers[0] + 1].text == ">":  # "[2 > [1]": one closing bracket forgotten
        return [Mention(int(tokens[numbers[0]].text), "bracket", opening, numbers[0] + 1)], end, False
    return [], opening + 1, False


def _labelled(tokens: Sequence[Token], label: int) -> tuple[list[Mention], int]:
    """The numbers that belong to the label at ``label``: one ("Passage 2") or a run ("Passages 2, 1 and 3")."""
    index = label + 1
    while index < len(tokens) and index <= label + 2 and tokens[index].text in "#:.(":
        index += 1
    if index == len(tokens) or tokens[index].kind != "number":
        return [], label + 1
    found = [Mention(int(tokens[index].text), "label", label, index + 1)]
    while (following := _next_in_run(tokens, found[-1].end)) is not None:
        found.append(Mention(int(tokens[following].text), "label", following, following + 1))
    return found, found[-1].end


def _next_in_run(tokens: Sequence[Token], index: int) -> int | None:
    """The next number of a run behind a label, unless it is an enumerator ("Passage 3, 2. Passage 1")."""
    start = index
    while index < len(tokens) and index < start + 2 and (tokens[index].text in ",;>=&" or tokens[index].text == "and"):
        index += 1
    if index == start or index == len(tokens) or tokens[index].kind != "number":
        return None
    enumerates = (
        index + 2 < len(tokens)
        and tokens[index + 1].text in _AFTER_ENUMERATOR
        and (is_label(tokens[index + 2]) or tokens[index + 2].text == "[" or tokens[index + 2].kind == "number")
    )
    return None if enumerates else index
