"""Find mentions of passages in a reply.

The text is tokenized once and scanned once, so the time is linear in its length for any input.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

#: Maximum number of digits of an identifier. Python refuses to convert very long numbers.
MAX_DIGITS = 100

Form = Literal["bracket", "list", "label", "bare"]

#: Pattern of tokens. Characters for emphasis, quotation and escapes are skipped: ``**[2]**`` is ``[2]``.
_TOKEN = re.compile(r"(?P<number>\d+)|(?P<word>[^\W\d_]+)|(?P<line>\n)|(?P<mark>[^\s*`\"'“”‘’_\\])")
_SINGULAR = (
    *("passage", "document", "doc", "text", "paragraph", "snippet", "article", "candidate", "item", "id", "result"),
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
    """A token of a reply: a number, a word, a line break or another character; ``start`` is its position."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Mention:
    """A mention of a passage in a reply, such as "[2]" or "Passage 2"."""

    number: int  # the number as written
    #: ``bracket`` for [2], ``list`` for a number in [2, 1], ``label`` for Passage 2, ``bare`` for a lone number.
    form: Form
    start: int  # index of the first token of the mention
    end: int  # index after the last token of the mention


def tokenize(text: str) -> list[Token]:
    """Split a text into tokens; very long numbers are treated as words."""
    tokens = []
    for match in _TOKEN.finditer(text):
        if (kind := str(match.lastgroup)) == "number" and len(match[0]) > MAX_DIGITS:
            kind = "word"
        tokens.append(Token(kind, match[0], match.start()))
    return tokens


def is_label(token: Token) -> bool:
    """Return whether a word introduces an identifier, as in "Passage 2"."""
    return token.kind == "word" and (token.text.lower() in _LABELS or token.text.endswith(_CJK_LABELS))


def joins(tokens: Sequence[Token], start: int, end: int, *, heads: bool = False) -> bool:
    """Return whether tokens ``start .. end - 1`` are only separators, labels, "and", or enumerators such as "2."."""
    for index in range(start, end):
        token = tokens[index]
        if token.kind == "mark":
            allowed = token.text in _JOINING_MARKS
        elif token.kind == "word":
            word = token.text.lower()
            allowed = word in _JOINING_WORDS or is_label(token) or (heads and word in _HEAD_WORDS)
        elif token.kind == "number":
            # Token ``end`` starts a mention, so ``index + 1`` always exists.
            allowed = tokens[index + 1].text in _AFTER_ENUMERATOR
        else:
            allowed = True
        if not allowed:
            return False
    return True


def find_mentions(tokens: Sequence[Token]) -> tuple[list[Mention], bool]:
    """Return all mentions in order, and whether the last one is truncated by the end of the reply.

    A number at the end of an unclosed last bracket is omitted, since "[1" may be the beginning of "[12]".
    """
    mentions: list[Mention] = []
    truncated, index = False, 0
    while index < len(tokens):
        token = tokens[index]
        if token.text == "[":
            bracketed, index, truncated = _bracketed_mentions(tokens, index)
            mentions += bracketed
        elif is_label(token):
            labelled, index = _labelled_mentions(tokens, index)
            mentions += labelled
        elif token.kind == "number":
            # "2] > [1]": the prompt, or a prefilled reply, ended with the opening bracket.
            is_prefilled = index == 0 and len(tokens) > 1 and tokens[1].text == "]"
            mentions.append(Mention(int(token.text), "bracket" if is_prefilled else "bare", index, index + 1))
            index += 1
        else:
            index += 1
    return mentions, truncated


def _bracketed_mentions(tokens: Sequence[Token], opening: int) -> tuple[list[Mention], int, bool]:
    """Return the mentions in the bracket at ``opening``, the index after them, and whether a number is truncated.

    The last number in an unclosed bracket counts as truncated if the reply ends directly after this number.
    """
    end = opening + 1
    while end < len(tokens) and tokens[end].text not in "[]":
        end += 1
    inside = tokens[opening + 1 : end]
    unclosed = end == len(tokens)
    listing = all(
        t.kind in ("number", "line") or t.text in _LISTING_MARKS or is_label(t) or t.text == "and" for t in inside
    )
    numbers = [opening + 1 + offset for offset, t in enumerate(inside) if t.kind == "number"]
    if not listing or not numbers:
        return [], opening + 1, False
    if unclosed or tokens[end].text == "]":
        truncated = unclosed and numbers[-1] == end - 1
        form: Form = "list" if len(numbers) > 1 else "bracket"
        complete = numbers[:-1] if truncated else numbers
        return [Mention(int(tokens[i].text), form, i, i + 1) for i in complete], end, truncated
    if len(numbers) == 1 and tokens[numbers[0] + 1].text == ">":  # "[2 > [1]": a closing bracket is missing
        return [Mention(int(tokens[numbers[0]].text), "bracket", opening, numbers[0] + 1)], end, False
    return [], opening + 1, False


def _labelled_mentions(tokens: Sequence[Token], label: int) -> tuple[list[Mention], int]:
    """Return the mentions after a label, as in "Passage 2" or "Passages 2, 1 and 3", and the index after them."""
    index = label + 1
    while index < len(tokens) and index <= label + 2 and tokens[index].text in "#:.(":
        index += 1
    if index == len(tokens) or tokens[index].kind != "number":
        return [], label + 1
    mentions = [Mention(int(tokens[index].text), "label", label, index + 1)]
    while (following := _next_labelled(tokens, mentions[-1].end)) is not None:
        mentions.append(Mention(int(tokens[following].text), "label", following, following + 1))
    return mentions, mentions[-1].end


def _next_labelled(tokens: Sequence[Token], index: int) -> int | None:
    """Return the index of the next number in a labelled run, or None if the run has ended.

    An enumerator ends the run: "2." in "Passage 3, 2. Passage 1".
    """
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
