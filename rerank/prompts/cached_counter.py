"""A memo of token counts, which are needed repeatedly, since windows of a query share documents."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import cast

from rerank.prompts.base import Prompt, TokenCounter
from rerank.prompts.bounded_memo import ENTRY_BYTES, BoundedMemo

#: Either a text and the number of tokens to which it is truncated (-1 if it is not truncated), or a prompt.
_Key = tuple[str, int] | Prompt
_WHOLE = -1


class CachedTokenCounter:
    """A thread-safe memo of what a `TokenCounter` computes: token counts of texts and prompts, and truncated texts.

    Args:
        tokens: The token counter.
        size: Maximum size in bytes, including the stored texts and prompts.
    """

    def __init__(self, tokens: TokenCounter, *, size: int = 16 << 20) -> None:
        """Create an empty memo."""
        self._tokens = tokens
        self._memo: BoundedMemo[_Key, int] = BoundedMemo(size, _size_of_counted_prompt)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text; texts that are not in the memo are tokenized in one call."""
        return self._of_texts(texts, _WHOLE, self._tokens.lengths)

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        """Return the longest prefix of each text that has at most ``tokens`` tokens."""
        ends = self._of_texts(texts, tokens, lambda new: [len(text) for text in self._cut(new, tokens)])
        return [text[:end] for text, end in zip(texts, ends, strict=True)]

    def count(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt."""
        tokens = self._memo.get(prompt)
        if tokens is None:
            tokens = self._tokens.count(prompt)
            self._memo.put(prompt, tokens)
        return tokens

    def _of_texts(self, texts: Sequence[str], kind: int, compute: Callable[[list[str]], list[int]]) -> list[int]:
        """Return the token count or the truncated length of each text; missing numbers are computed in one call."""
        numbers = self._memo.get_all([(text, kind) for text in texts])
        missing = {text: None for text, number in zip(texts, numbers, strict=True) if number is None}
        if missing:
            new = dict(zip(missing, compute(list(missing)), strict=True))
            self._memo.put_all(((text, kind), number) for text, number in new.items())
            numbers = [new[text] if number is None else number for text, number in zip(texts, numbers, strict=True)]
        return cast(list[int], numbers)

    def _cut(self, texts: list[str], tokens: int) -> list[str]:
        cut_all: Callable[[list[str], int], list[str]] | None = getattr(self._tokens, "cut_all", None)
        return cut_all(texts, tokens) if cut_all else [self._tokens.cut(text, tokens) for text in texts]


def _size_of_counted_prompt(key: _Key, _: int) -> int:
    texts = [key[0]] if key and isinstance(key[0], str) else [message.content for message in key]
    return ENTRY_BYTES + sum(map(sys.getsizeof, texts))
