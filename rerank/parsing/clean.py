"""A raw reply -> the part that answers, in plain signs: thoughts, protocol marks and odd typography taken away.

Knows what models wrap around an answer; knows nothing of identifiers.
"""

from __future__ import annotations

import re
import unicodedata

#: What opens or closes a thought, in the dialects of the common reasoning models. Only fixed words: linear time.
_THOUGHT = re.compile(
    r"<\s?(?P<slash>/?)\s?(?:seed:)?(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad)\s?>"
    r"|\[(?P<square>/?)think\]"
    r"|◁(?P<triangle>/?)think▷"
    r"|<\|(?P<edge>begin|end)_of_thought\|>"
    r"|<\|channel\|>(?P<channel>analysis|commentary|final)<\|message\|>",
    re.IGNORECASE,
)
#: Marks of the chat protocol or of the asked form that are not words of the answer.
_PROTOCOL = re.compile(
    r"</?(?:answer|s|ranking)>|<\|[\w/ ]{1,40}\|>|<(?:start|end)_of_turn>|\[/?(?:INST|rankstart|rankend)\]",
    re.IGNORECASE,
)
_SMALL_DIGITS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉]+")
_SIGNS = {
    **dict.fromkeys(map(ord, "［【〔〖⟦"), "["),
    **dict.fromkeys(map(ord, "］】〕〗⟧"), "]"),
    **dict.fromkeys(map(ord, "＞›»≻≥≫→⇒➔➜⟩"), ">"),
    **dict.fromkeys(map(ord, "＜≺"), "<"),
    **dict.fromkeys(map(ord, "，、﹐"), ","),
    **dict.fromkeys(map(ord, "\r\x0b\x0c\x85\u2028\u2029"), "\n"),
    ord("；"): ";",
    ord("："): ":",
    ord("．"): ".",
    ord("（"): "(",
    ord("）"): ")",
    ord("＃"): "#",
    ord("＝"): "=",
}
#: Numbers in a ring, in parentheses or with a full stop: one character, one number.
_RINGED = {
    code: f" {int(unicodedata.numeric(chr(code)))} "
    for first, last in ((0x2460, 0x249B), (0x24EB, 0x24FF), (0x2776, 0x2793), (0x3251, 0x325F), (0x32B1, 0x32BF))
    for code in range(first, last + 1)
}


def answer(text: str) -> str:
    """What a reply says outside its thoughts.

    A thought runs from an opening to the next closing mark. One that is never closed takes all that follows, and a
    closing mark without an opening one (the prompt may have opened it) takes all that came before.

    >>> answer("<think>is it [1]?</think>[2] > [1]")
    '[2] > [1]'
    """
    kept: list[str] = []
    start, thinking = 0, False
    for mark in _THOUGHT.finditer(text):
        if _closes(mark):
            if not thinking:
                kept.clear()
            start, thinking = mark.end(), False
        elif not thinking:
            kept.append(text[start : mark.start()])
            thinking = True
    if not thinking:
        kept.append(text[start:])
    return _PROTOCOL.sub(" ", "".join(kept)).strip()


def plain(text: str) -> str:
    """The same text with typographic variants of brackets, arrows, commas and digits made plain.

    >>> plain("【２】 ≻ ①")
    '[２] >  1 '

    Digits of other scripts are left, as ``int`` reads them.
    """
    text = _SMALL_DIGITS.sub(lambda match: f" {unicodedata.normalize('NFKC', match[0])} ", text)
    return text.replace("&gt;", ">").replace("&lt;", "<").translate(_SIGNS).translate(_RINGED)


def _closes(mark: re.Match[str]) -> bool:
    slashed = (mark["slash"] or mark["square"] or mark["triangle"]) == "/"
    return slashed or (mark["edge"] or "").lower() == "end" or (mark["channel"] or "").lower() == "final"
