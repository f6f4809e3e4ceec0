"""What candidates are called in a prompt: numbers, or names that are one token each. Knows no template and no model.

Published listwise models were trained on numbers. A name of one token takes the fewest decoding steps, and its logit is
a score (FIRST, Reddy et al., EMNLP 2024, arXiv 2406.15657, section 3).
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


def identifiers(alphabet: Alphabet, count: int, tokens: TokenCounter) -> tuple[str, ...]:
    """Names for ``count`` candidates, without brackets.

    Args:
        alphabet: ``numbers`` are 1, 2, ...; ``letters`` are A to Z, then those pairs of letters that are one token
            behind a square bracket.
        count: How many.
        tokens: The tokenizer at hand.

    Raises:
        UsageError: The tokenizer has fewer such names.
    """
    if alphabet == "numbers":
        return tuple(map(str, range(1, count + 1)))
    found = letters_of(tokens)
    if len(found) < count:
        raise UsageError(
            f"{count} candidates in one window, and this tokenizer has {len(found)} letters and pairs of letters "
            "that are one token",
            expected="no more candidates than identifiers",
            remedy="Take smaller windows (--window-size where the method has one) or a smaller --depth",
        )
    return found[:count]


def letters_of(tokens: TokenCounter) -> tuple[str, ...]:
    """All names that are one token, the shortest first; those that a counter has kept from another, if it has."""
    kept: tuple[str, ...] = getattr(tokens, "letters", ())
    return kept or _letters(cast(Hashable, tokens))


@lru_cache(maxsize=16)
def _letters(counter: Hashable) -> tuple[str, ...]:
    """The letters, then the pairs of letters, that add exactly one token between square brackets."""
    tokens = cast(TokenCounter, counter)
    names = [*ascii_uppercase, *(a + b for a, b in product(ascii_uppercase, repeat=2))]
    (bracket,) = tokens.lengths(["["])
    begun, whole = tokens.lengths([f"[{name}" for name in names]), tokens.lengths([f"[{name}]" for name in names])
    lengths = zip(names, begun, whole, strict=True)
    return tuple(name for name, half, full in lengths if half == bracket + 1 and full == half + 1)
