r"""Determine how the regular expression of a pre-tokenizer splits at a space, from the alternatives that it combines.

Published byte-level tokenizers (GPT-2, cl100k, o200k, Llama 3, Qwen, DeepSeek and their relatives) combine the same few
alternatives. In a match of any of them, only the first character can be a space, or the whole match is whitespace.
"""

from __future__ import annotations

from enum import IntEnum

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_ANY_CASE = f"(?i:{'|'.join(_CONTRACTIONS)})"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

#: Alternatives whose matches contain no space.
_WITHOUT_SPACE = frozenset(
    {
        *_CONTRACTIONS,
        _ANY_CASE,
        "'(?i:[sdmt]|ll|ve|re)",
        r"\p{N}",
        r"\p{N}+",
        r"\p{N}{1,3}",
        r"\d",
        r"\d+",
        r"\d{1,3}",
        r"[0-9]",
        r"[0-9]+",
        r"\s*[\r\n]+",  # whitespace only, and begins after the character before the joint
        r"\s*[\r\n]",
        r"[\r\n]+",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    }
)
#: Alternatives in whose matches only the first character may be a space.
_SPACE_FIRST = frozenset(
    {
        r" ?\p{L}+",
        r" ?\p{N}+",
        r" ?[^\s\p{L}\p{N}]+",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r" ?[^\s\p{L}\p{N}]++[\r\n]*",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+",
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ANY_CASE}?",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ANY_CASE}?",
    }
)
#: Alternatives that match whitespace. The look-ahead of the first one tests a character on the same side of a joint.
_WHITE_SPACE = frozenset({r"\s+(?!\S)", r"\s+", r"\s"})


class Split(IntEnum):
    """Whether a pre-tokenizer begins a new word at a space that follows another character.

    Attributes:
        NEVER: The space alone does not begin a new word, and characters are not merged, moved or removed across it.
        ALWAYS: The space begins a new word.
        DROPPED: All whitespace separates words and is dropped.
    """

    NEVER = 0
    ALWAYS = 1
    DROPPED = 2


def pretokenizer_regex_split(pattern: str) -> Split | None:
    r"""Return how a regular expression whose matches become words splits at spaces; None if this is unknown.

    If no match contains a space after another character, each match (or gap between matches) before a joint ends at the
    joint, since an alternative for whitespace matches there.

    >>> pretokenizer_regex_split(r" ?\p{L}+|\s+")
    <Split.ALWAYS: 1>
    >>> pretokenizer_regex_split(r"\p{N}")
    <Split.NEVER: 0>
    >>> pretokenizer_regex_split(r".*") is None
    True
    """
    alternatives = set(_pretokenizer_regex_alternatives(pattern.replace("\r", r"\r").replace("\n", r"\n")))
    if alternatives <= _WITHOUT_SPACE:
        return Split.NEVER
    if r"\s+" in alternatives and alternatives <= _WITHOUT_SPACE | _SPACE_FIRST | _WHITE_SPACE:
        return Split.ALWAYS
    return None


def _pretokenizer_regex_alternatives(pattern: str) -> list[str]:
    """Split a regular expression at the vertical bars outside of its groups and character classes."""
    parts, depth, in_class, start, index = [], 0, False, 0, 0
    while index < len(pattern):
        char = pattern[index]
        if char == "\\":
            index += 1
        elif in_class or char == "[":
            in_class = char != "]"
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == "|" and depth == 0:
            parts.append(pattern[start:index])
            start = index + 1
        index += 1
    return [*parts, pattern[start:]]
