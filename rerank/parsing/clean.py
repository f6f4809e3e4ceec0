"""Clean raw replies (thoughts, chat protocol tokens, typographic variants), and detect those that decline to answer."""

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


def strip_thoughts(text: str) -> str:
    """Return the text of a reply outside its thoughts.

    A thought extends from an opening tag to the next closing tag. An unclosed thought extends to the end of the reply.
    A closing tag without an opening tag ends a thought that began with the reply, since the prompt may have opened it.

    >>> strip_thoughts("<think>is it [1]?</think>[2] > [1]")
    '[2] > [1]'
    """
    outside: list[str] = []
    start, thinking = 0, False
    for mark in _THOUGHT.finditer(text):
        slashed = (mark["slash"] or mark["square"] or mark["triangle"]) == "/"
        if slashed or (mark["edge"] or "").lower() == "end" or (mark["channel"] or "").lower() == "final":
            if not thinking:
                outside.clear()
            start, thinking = mark.end(), False
        elif not thinking:
            outside.append(text[start : mark.start()])
            thinking = True
    if not thinking:
        outside.append(text[start:])
    return _PROTOCOL.sub(" ", "".join(outside)).strip()


def normalize_signs(text: str) -> str:
    """Replace typographic variants of brackets, comparison signs, commas and digits by ASCII characters.

    >>> normalize_signs("【２】 ≻ ①")
    '[２] >  1 '

    Digits of other scripts are not replaced, since ``int`` accepts them.
    """
    text = _SMALL_DIGITS.sub(lambda match: f" {unicodedata.normalize('NFKC', match[0])} ", text)
    return text.replace("&gt;", ">").replace("&lt;", "<").translate(_SIGNS).translate(_ENCLOSED_NUMBERS)


#: Phrases of refusals, by language. They have fixed words and bounded gaps only, so matching takes linear time.
_DECLINES = re.compile(
    "|".join(
        (
            r"\bi(?:'m| am) (?:\w{1,12} )?(?:sorry|afraid|unable|not able)\b",
            r"\b(?:i|we) (?:\w{1,12} )?(?:cannot|can ?not|can't|could not|couldn't|won't|will not|decline)\b",
            r"\bas an? (?:\w{1,12} )?(?:ai|artificial intelligence|language model)\b",
            r"\b(?:sorry|apologi[sz]e|apologies)\b",
            r"\b(?:unable|not able) to (?:assist|help|rank|comply|answer|provide|fulfil|process)",
            r"\b(?:cannot|can't) (?:assist|help|rank|comply|answer|provide|fulfil|process)",
            r"\b(?:je suis désolée?|désolée?|je ne peux pas|en tant qu'(?:ia|intelligence))\b",
            r"\b(?:tut mir (?:\w{1,12} )?leid|ich kann (?:\w{1,12} ){0,3}nicht|als (?:ki|sprachmodell))\b",
            r"\b(?:lo siento|no puedo|como (?:una )?ia)\b",
            r"\b(?:desculpe|sinto muito|não posso|mi dispiace|non posso)\b",
            r"\b(?:извините|простите|не могу|к сожалению)",
            "抱歉|对不起|對不起|无法|無法|不能|作为(?:一个)?(?:ai|人工智能)",
            "申し訳|できません|죄송|할 수 없",
        )
    ),
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Return whether a text declines to answer. Only replies without a ranking are checked, so errors do little harm.

    >>> is_refusal("I'm sorry, but I cannot rank these passages.")
    True
    >>> is_refusal("The passages are all about fleas.")
    False
    """
    return _DECLINES.search(text.replace("’", "'")) is not None
