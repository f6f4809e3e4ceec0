"""Detect replies that decline to answer. Only replies without a ranking are checked, so errors do little harm."""

from __future__ import annotations

import re

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


def is_refusal_to_answer(text: str) -> bool:
    """Return whether a text declines to answer.

    >>> is_refusal_to_answer("I'm sorry, but I cannot rank these passages.")
    True
    >>> is_refusal_to_answer("The passages are all about fleas.")
    False
    """
    return _DECLINES.search(text.replace("’", "'")) is not None
