"""A token counter without a tokenizer, for backends without a model: it counts words and punctuation marks."""

import re
from itertools import islice

from rerank.prompts.base import Prompt

_WORD = re.compile(r"\w+|[^\w\s]")
#: Kind of each ASCII character: part of a word, whitespace, or punctuation.
_KINDS = "".join("w" if re.match(r"\w", char) else " " if char.isspace() else "p" for char in map(chr, range(128)))
#: Additional tokens per turn, as in the chat templates of real models.
_TURN = 4


class WordTokens:
    """A `TokenCounter` that counts every word and every punctuation mark as one token."""

    def __init__(self, context_size: int) -> None:
        self.context_size = context_size

    def count(self, prompt: Prompt) -> int:
        return _TURN * len(prompt) + sum(self.lengths([message.content for message in prompt]))

    def lengths(self, texts: list[str]) -> list[int]:
        return list(map(_count, texts))

    def cut(self, text: str, tokens: int) -> str:
        words = list(islice(_WORD.finditer(text), max(0, tokens) + 1))
        if len(words) <= tokens:
            return text
        return text[: words[tokens - 1].end()] if tokens > 0 else ""


def _count(text: str) -> int:
    """Return the number of matches of `_WORD`, without creating them if the text is ASCII."""
    if not text.isascii():
        return len(_WORD.findall(text))
    kinds = f" {text.translate(_KINDS)}"
    return kinds.count(" w") + kinds.count("pw") + kinds.count("p")
