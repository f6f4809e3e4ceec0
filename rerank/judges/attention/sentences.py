"""Divide a text into sentences or words, in any script and without a model or dictionary.

A sentence ends

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

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

#: Maximum length of a sentence in characters: in general, and in scripts without spaces, whose characters carry more
#: information.
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


def split_attention_judge_sentences(text: str) -> list[tuple[int, int]]:
    """Divide a text into sentences.

    Args:
        text: The text.

    Returns:
        Start and end (exclusive) of each sentence in characters (code points), in order, without the whitespace around
        it. Every character except whitespace belongs to exactly one sentence.

    >>> split_attention_judge_sentences("It rains. Snow (a lot!) falls")
    [(0, 9), (10, 29)]
    """
    sentences: list[tuple[int, int]] = []
    start = 0
    for end in [*_judge_sentence_ends(text), len(text)]:
        # A number or mark alone, such as the number of a list item, belongs to the text that follows.
        if end < len(text) and not any(map(str.isalpha, text[start:end])):
            continue
        sentences += _trim_judge_sentence_pieces(text, start, end)
        start = end
    return sentences


def split_attention_judge_words(text: str) -> list[tuple[int, int]]:
    """Divide a text at whitespace; in scripts without spaces, every character with its combining marks is a word.

    Args:
        text: The text.

    Returns:
        Start and end (exclusive) of each word in characters (code points), in order.

    >>> split_attention_judge_words("It rains. \u96e8\u5929")
    [(0, 2), (3, 9), (10, 11), (11, 12)]
    """
    words: list[tuple[int, int]] = []
    for match in _WORD.finditer(text):
        start = match.start()
        if words and words[-1][1] == start and unicodedata.category(text[start])[0] == "M":
            start = words.pop()[0]
        words.append((start, match.end()))
    return words


def _judge_sentence_ends(text: str) -> Iterator[int]:
    """Yield the positions where sentences end."""
    for match in _BREAK.finditer(text):
        if match[0][0] not in ".!?…‥" or _ends_judge_sentence(text, match):
            yield match.end()


def _ends_judge_sentence(text: str, match: re.Match[str]) -> bool:
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


def _trim_judge_sentence_pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield a sentence without surrounding whitespace, or its pieces if it is too long."""
    end = start + len(text[start:end].rstrip())
    while (first := _NONSPACE.search(text, start, end)) is not None:
        start = first.start()
        beginning = min(end, start + _LONGEST)
        unspaced = len(_UNSPACED.findall(text, start, beginning))
        limit = _LONGEST_UNSPACED if 2 * unspaced > beginning - start else _LONGEST
        middle = end if end - start <= limit else _divide_long_judge_sentence(text, start, end, limit)
        yield start, start + len(text[start:middle].rstrip())
        start = middle


def _divide_long_judge_sentence(text: str, start: int, end: int, limit: int) -> int:
    """Return the position at which to divide a long piece, if possible between ``limit / 2`` and ``limit`` characters.

    The first pattern of ``_DIVISIONS`` that matches in this range decides, and its last match is used.
    """
    for division in _DIVISIONS:
        places = [match.end() for match in division.finditer(text, start + limit // 2, start + limit)]
        if places:
            return places[-1]
    middle = start + limit
    # Do not divide between a letter and its combining marks, or in a sequence that is displayed as one character.
    while middle < end and (unicodedata.category(text[middle])[0] == "M" or "\u200d" in text[middle - 1 : middle + 1]):
        middle += 1
    return middle
