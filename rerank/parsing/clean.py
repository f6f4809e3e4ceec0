"""Clean raw replies: remove thoughts and chat protocol tokens, and normalise typographic variants."""

from __future__ import annotations

import re
import unicodedata

#: Opening and closing tags of thoughts, as common reasoning models write them. The pattern has fixed words only, so
#: matching takes linear time.
_THOUGHT = re.compile(
    r"<\s?(?P<slash>/?)\s?(?:seed:)?(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad)\s?>"
    r"|\[(?P<square>/?)think\]"
    r"|◁(?P<triangle>/?)think▷"
    r"|<\|(?P<edge>begin|end)_of_thought\|>"
    r"|<\|channel\|>(?P<channel>analysis|commentary|final)<\|message\|>",
    re.IGNORECASE,
)
#: Tokens of the chat protocol or of the requested form that are not part of the answer.
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
#: Characters that represent a number: circled, in parentheses or with a full stop.
_ENCLOSED_NUMBERS = {
    code: f" {int(unicodedata.numeric(chr(code)))} "
    for first, last in ((0x2460, 0x249B), (0x24EB, 0x24FF), (0x2776, 0x2793), (0x3251, 0x325F), (0x32B1, 0x32BF))
    for code in range(first, last + 1)
}


def extract_answer_without_thoughts(text: str) -> str:
    """Return the text of a reply outside its thoughts.

    A thought extends from an opening tag to the next closing tag. An unclosed thought extends to the end of the reply.
    A closing tag without an opening tag ends a thought that began with the reply, since the prompt may have opened it.

    >>> extract_answer_without_thoughts("<think>is it [1]?</think>[2] > [1]")
    '[2] > [1]'
    """
    outside: list[str] = []
    start, thinking = 0, False
    for mark in _THOUGHT.finditer(text):
        if _reply_mark_closes_thoughts(mark):
            if not thinking:
                outside.clear()
            start, thinking = mark.end(), False
        elif not thinking:
            outside.append(text[start : mark.start()])
            thinking = True
    if not thinking:
        outside.append(text[start:])
    return _PROTOCOL.sub(" ", "".join(outside)).strip()


def normalize_reply_signs(text: str) -> str:
    """Replace typographic variants of brackets, comparison signs, commas and digits by ASCII characters.

    >>> normalize_reply_signs("【２】 ≻ ①")
    '[２] >  1 '

    Digits of other scripts are not replaced, since ``int`` accepts them.
    """
    text = _SMALL_DIGITS.sub(lambda match: f" {unicodedata.normalize('NFKC', match[0])} ", text)
    return text.replace("&gt;", ">").replace("&lt;", "<").translate(_SIGNS).translate(_ENCLOSED_NUMBERS)


def _reply_mark_closes_thoughts(mark: re.Match[str]) -> bool:
    slashed = (mark["slash"] or mark["square"] or mark["triangle"]) == "/"
    return slashed or (mark["edge"] or "").lower() == "end" or (mark["channel"] or "").lower() == "final"
