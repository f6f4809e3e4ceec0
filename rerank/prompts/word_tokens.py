"""A token counter without a tokenizer: words and punctuation marks. For backends that are no models."""

from __future__ import annotations

import re
from itertools import islice

from rerank.prompts.base import Prompt

_WORD = re.compile(r"\w+|[^\w\s]")
#: Tokens that a turn costs beyond its text, as in the chat templates of real models.
_TURN = 4


class WordTokens:
    """A `TokenCounter` that takes every word and every other mark for one token.

    Args:
        context_size: Tokens of prompt and reply together.
    """

    def __init__(self, context_size: int) -> None:
        """Keep the size."""
        self._context_size = context_size

    @property
    def context_size(self) -> int:
        """Tokens that prompt and reply may have together."""
        return self._context_size

    def count(self, prompt: Prompt) -> int:
        """Tokens of all turns, and a few for each."""
        return sum(_TURN + length for length in self.lengths([message.content for message in prompt]))

    def lengths(self, texts: list[str]) -> list[int]:
        """Words and marks of each text."""
        return [sum(1 for _ in _WORD.finditer(text)) for text in texts]

    def picture_tokens(self, path: str) -> int:
        """One, for the mark that stands where it is shown; nobody looks at it."""
        return 1

    def cut(self, text: str, tokens: int) -> str:
        """The longest prefix that ends with a token and has at most ``tokens`` of them."""
        found = list(islice(_WORD.finditer(text), max(0, tokens) + 1))
        if len(found) <= tokens:
            return text
        return text[: found[tokens - 1].end()] if tokens > 0 else ""
