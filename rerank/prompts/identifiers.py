"""Identifiers of passages in a prompt: numbers, or letters that are a single token each.

Published listwise models were trained with numbers. A single-token identifier needs the fewest decoding steps, and its
logit is a score (FIRST, Reddy et al., EMNLP 2024, arXiv 2406.15657, section 3).
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from itertools import product
from string import ascii_uppercase
from typing import Literal, cast

from rerank.errors import UsageError
from rerank.prompts.base import TokenCounter

Alphabet = Literal["numbers", "letters"]

#: All letters, then all pairs of letters.
LETTER_IDENTIFIERS = (*ascii_uppercase, *(a + b for a, b in product(ascii_uppercase, repeat=2)))


def make_identifiers(alphabet: Alphabet, count: int, tokens: TokenCounter) -> tuple[str, ...]:
    """Return identifiers for ``count`` passages, without brackets.

    Letters are A to Z, then the pairs of letters that are a single token after a square bracket.
    """
    if alphabet == "numbers":
        return tuple(map(str, range(1, count + 1)))
    letters = single_token_letters(tokens)
    if len(letters) < count:
        raise UsageError(
            f"A window has {count} candidates, but this tokenizer has only {len(letters)} letters and pairs "
            "of letters that are a single token",
            expected="no more candidates than identifiers",
            remedy="Use smaller windows (--window-size, if the method has it) or a smaller --depth",
        )
    return letters[:count]


def single_token_letters(tokens: TokenCounter) -> tuple[str, ...]:
    """Return all letters and pairs of letters that are a single token, the shortest first.

    If the token counter has an attribute ``letters`` that is not empty, as in a replay, the identifiers in this
    attribute are returned instead.
    """
    recorded: tuple[str, ...] = getattr(tokens, "letters", ())
    return recorded or _find_letters(cast(Hashable, tokens))


@lru_cache(maxsize=16)
def _find_letters(counter: Hashable) -> tuple[str, ...]:
    """Return the letters, then the pairs of letters, that add exactly one token between square brackets."""
    tokens = cast(TokenCounter, counter)
    (bracket,) = tokens.lengths(["["])
    closed = tokens.lengths([f"[{name}]" for name in LETTER_IDENTIFIERS])
    lengths = zip(LETTER_IDENTIFIERS, tokens.lengths([f"[{name}" for name in LETTER_IDENTIFIERS]), closed, strict=True)
    return tuple(name for name, half, full in lengths if half == bracket + 1 and full == half + 1)
