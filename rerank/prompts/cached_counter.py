"""A cached token counter: windows of one query share documents, and tokenization dominates the cost of a budget."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from rerank.prompts.base import Prompt, TokenCounter

_WHOLE, _PROMPT = -1, -2


class CachedTokenCounter:
    """An LRU cache of the lengths, cuts and counts of a `TokenCounter`. It stores hashes and numbers, no texts.

    Args:
        tokens: The token counter.
        size: Maximum number of entries (about 150 bytes each).
    """

    def __init__(self, tokens: TokenCounter, *, size: int = 1 << 17) -> None:
        """Create an empty cache."""
        self._tokens = tokens
        self._size = size
        self._table: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        self._lock = Lock()

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text; texts not in the cache are tokenized in one call."""
        keys = [_key(text, _WHOLE) for text in texts]
        known = {key: self._get(key) for key in keys}
        new = {key: text for key, text in zip(keys, texts, strict=True) if known[key] is None}
        for key, counted in zip(new, self._tokens.lengths(list(new.values())) if new else [], strict=True):
            known[key] = counted
            self._put(key, counted)
        return [length for key in keys if (length := known[key]) is not None]

    def cut(self, text: str, tokens: int) -> str:
        """Return the longest prefix of at most ``tokens`` tokens."""
        key = _key(text, tokens)
        end = self._get(key)
        if end is None:
            end = len(self._tokens.cut(text, tokens))
            self._put(key, end)
        return text[:end]

    def count(self, prompt: Prompt) -> int:
        """Return the number of tokens of a prompt."""
        key = _key(repr([(message.role, message.content, message.images) for message in prompt]), _PROMPT)
        tokens = self._get(key)
        if tokens is None:
            tokens = self._tokens.count(prompt)
            self._put(key, tokens)
        return tokens

    def _get(self, key: tuple[bytes, int]) -> int | None:
        with self._lock:
            if key in self._table:
                self._table.move_to_end(key)
            return self._table.get(key)

    def _put(self, key: tuple[bytes, int], number: int) -> None:
        with self._lock:
            self._table[key] = number
            if len(self._table) > self._size:
                self._table.popitem(last=False)


def _key(text: str, kind: int) -> tuple[bytes, int]:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(), kind
