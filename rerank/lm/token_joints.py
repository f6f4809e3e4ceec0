"""Find positions at which a text can be divided and tokenized part by part, with the same token ids as a result.

A *joint* is a position before a space, after a character that is not whitespace. For the tokenizers that
`find_token_joints` accepts, and for every text with a joint at position p,

    ids(text) = ids(text[:p]) + (ids(C + text[p:]) without ids(C)),    C = `CARRIER`, an ordinary character.

This follows from how the ``tokenizers`` library works:

1. Special and other added tokens are found in the text first. None of them contains a space after another character,
   so none crosses a joint. There is no joint after an added token, because the pieces of text between added
   tokens are normalized and split separately, and some tokenizers treat the beginning of a piece differently.
2. The normalizer changes the characters on both sides of a joint independently: the accepted normalizers only map
   single characters or compose characters, and Unicode never composes a space with the character before it. Changes at
   the beginning of a piece do not affect a joint, since at least one character precedes it.
3. The pre-tokenizer splits the text into words, and a joint begins a new word (`Split`).
4. The model tokenizes every word independently. If the text is a single word, the model must be BPE, and no token of
   its vocabulary may contain the character before the joint followed by a space. Then no merge crosses the joint, and
   the merges on its sides are independent.

If one of these steps cannot be verified for a tokenizer, it is treated as having no joints.

Determine how the regular expression of a pre-tokenizer splits at a space, from the alternatives that it combines.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

#: Character inserted before a part of a text that begins at a joint, so that the part is not tokenized as the beginning
#: of a text.
CARRIER = "x"
#: Character that represents a space in the vocabularies of SentencePiece models.
METASPACE = "\u2581"

_Step = Mapping[str, Any]

#: Normalizers that map a character other than whitespace to characters other than whitespace.
_HARMLESS = frozenset({"NFC", "NFD", "Lowercase"})
#: Normalizers that may remove a character or map it to whitespace, so each text has to be tested.
_TESTED = frozenset({"NFKC", "NFKD", "StripAccents", "BertNormalizer", "Nmt", "Precompiled", "Strip"})
#: Patterns of replacements that affect only runs of spaces, which begin at a joint.
_SPACE_RUNS = frozenset({" {2,}", " +"})

#: Letters that form one grapheme with the character after them (Unicode's Grapheme_Cluster_Break=Prepend).
_PREPENDED = frozenset("\u0d4e\U000111c2\U000111c3\U0001193f\U00011941\U00011a3a\U00011d46\U00011f02") | frozenset(
    map(chr, range(0x11A84, 0x11A8A))
)


@dataclass(frozen=True)
class Joints:
    """The joints of a tokenizer: positions at which a text can be divided and tokenized part by part.

    Attributes:
        added: Added tokens, after which there is no joint.
        normalizer: Normalizer that may remove a character or map it to whitespace; None if there is none.
        crossing: Characters that precede a space within a token of the vocabulary; there is no joint after them.
    """

    added: tuple[str, ...]
    normalizer: Any = None
    crossing: frozenset[str] = frozenset()

    def closes(self, text: str) -> bool:
        """Return whether there is a joint between a text and a space after it.

        Args:
            text: The text from its beginning or from another joint, without the space at that joint.
        """
        last = text[-1:]
        if not last or last.isspace() or last == METASPACE or last in self.crossing or text.endswith(self.added):
            return False
        return self.normalizer is None or self._remains_closed(text)

    def _remains_closed(self, text: str) -> bool:
        """Return whether the last character of a text does not become whitespace by normalization."""
        # A mark or an invisible character may be normalized together with its neighbours.
        if unicodedata.category(text[-1])[0] not in "LNPS" or text[-1] in _PREPENDED:
            return False
        for before in ("", " "):  # the text may follow a space or not
            # The carrier keeps whitespace at the end from being stripped.
            end = self.normalizer.normalize_str(f"{before}{text}{CARRIER}")[-2:]
            if len(end) < 2 or end[0].isspace() or end[0] == METASPACE or end[1] != CARRIER:
                return False
        return True


def find_token_joints(tokenizer: Any) -> Joints | None:
    """Return the joints of a transformers tokenizer; None if it is not a fast tokenizer or not known to have joints."""
    backend = getattr(tokenizer, "backend_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
    if backend is None:
        return None
    normalizers = _pretokenizer_steps(backend.normalizer, "normalizers")
    pretokenizers = _pretokenizer_steps(backend.pre_tokenizer, "pretokenizers")
    split = _split_at_joint(pretokenizers, has_metaspace=any(map(_makes_metaspace, normalizers)))
    if (
        split is None
        or not all(map(_is_local_normalizer, normalizers))
        or not _has_deterministic_token_ids(backend.model)
    ):
        return None
    added = list(tokenizer.added_tokens_decoder.values())
    if any(_token_crosses_space(str(token.content)) for token in added):
        return None
    is_plain = all(map(_is_plain_normalizer, normalizers))
    # Such added tokens are found in the normalized text, which may end differently than the original text.
    if any(token.normalized for token in added) and not is_plain:
        return None
    crossing: frozenset[str] | None = frozenset()
    if split is Split.NEVER:
        is_metaspace = any(step["type"] in ("Replace", "Metaspace") for step in (*normalizers, *pretokenizers))
        crossing = _crossing_characters(backend, METASPACE if is_metaspace else " ") if is_plain else None
    if crossing is None:
        return None
    # If whitespace is dropped between words, the amount that the normalizer leaves makes no difference.
    tested = _TESTED - {"BertNormalizer"} if split is Split.DROPPED else _TESTED
    normalizer = backend.normalizer if any(step["type"] in tested for step in normalizers) else None
    joints = Joints(tuple(str(token.content) for token in added), normalizer, crossing)
    return joints if joints.closes(CARRIER) else None


def _pretokenizer_steps(component: Any, members: str) -> list[_Step]:
    """Return the steps of a normalizer or pre-tokenizer as dictionaries; sequences are replaced by their members."""
    if component is None:
        return []
    try:
        pending = [json.loads(component.__getstate__())]
    except Exception:  # noqa: BLE001 - for steps written in Python, the library raises a plain Exception
        return [{"type": "custom"}]
    steps = []
    while pending:
        step = pending.pop(0)
        if step["type"] == "Sequence":
            pending = [*step[members], *pending]
        else:
            steps.append(step)
    return steps


def _makes_metaspace(step: _Step) -> bool:
    """Return whether a normalizer replaces spaces by `METASPACE`."""
    return bool(step["type"] == "Replace" and step["content"] == METASPACE)


def _is_plain_normalizer(step: _Step) -> bool:
    """Return whether a normalizer changes nothing but spaces and the beginning of a text."""
    return step["type"] == "Prepend" or (_makes_metaspace(step) and step["pattern"] == {"String": " "})


def _is_local_normalizer(step: _Step) -> bool:
    """Return whether a normalizer changes the two sides of a joint independently."""
    if step["type"] == "Replace":
        content, pattern = step["content"], step["pattern"]
        if pattern.get("Regex") in _SPACE_RUNS:
            return content in (" ", METASPACE)
        is_elsewhere = " " not in pattern.get("String", " ") and bool(content) and content == content.strip()
        return _is_plain_normalizer(step) or is_elsewhere
    return step["type"] in _HARMLESS | _TESTED | {"Prepend"}


def _split_at_joint(steps: Sequence[_Step], *, has_metaspace: bool) -> Split | None:
    """Return how a sequence of pre-tokenizers splits at a joint: the strongest split of any member; None if unknown."""
    splits = []
    for index, step in enumerate(steps):
        split = _pretokenizer_step_split(step, has_metaspace=has_metaspace)
        # ByteLevel and Metaspace replace spaces, so a later pre-tokenizer would find no spaces.
        is_last = index == len(steps) - 1
        if split is None or (step["type"] in ("ByteLevel", "Metaspace") and not is_last):
            return None
        splits.append(split)
    return max(splits, default=Split.NEVER)


def _pretokenizer_step_split(step: _Step, *, has_metaspace: bool) -> Split | None:
    kind = step["type"]
    if kind == "Metaspace":
        return Split.ALWAYS if step.get("split", True) else Split.NEVER
    if kind == "Digits" or (kind == "Punctuation" and step["behavior"] in ("Isolated", "Contiguous", "Removed")):
        return Split.NEVER
    if kind == "Split":
        return _pretokenizer_pattern_split(step, has_metaspace=has_metaspace)
    if has_metaspace:  # no spaces are left
        return None
    if kind == "ByteLevel":
        return Split.ALWAYS if step["use_regex"] else Split.NEVER
    return Split.DROPPED if kind in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit") else None


def _pretokenizer_pattern_split(step: _Step, *, has_metaspace: bool) -> Split | None:
    pattern, behavior = step["pattern"], step["behavior"]
    if pattern == {"String": " "}:
        if has_metaspace:  # as in Gemma; there is nothing to split
            return Split.NEVER
        return Split.ALWAYS if behavior in ("Isolated", "MergedWithNext") and not step["invert"] else None
    is_word = (behavior, step["invert"]) in (("Isolated", False), ("Removed", True))
    return pretokenizer_regex_split(pattern["Regex"]) if is_word and "Regex" in pattern and not has_metaspace else None


def _has_deterministic_token_ids(model: Any) -> bool:
    """Return whether a model always tokenizes a word in the same way, independently of other words."""
    randomness = (getattr(model, name, None) for name in ("dropout", "alpha", "nbest_size"))
    return type(model).__name__ in ("BPE", "Unigram", "WordPiece", "WordLevel") and not any(randomness)


def _token_crosses_space(token: str) -> bool:
    return " " in token.lstrip(" ")


def _crossing_characters(backend: Any, space: str) -> frozenset[str] | None:
    """Return the characters that precede a space within a token, for a model that receives a text as a single word.

    Returns:
        The characters; None if the model does not tokenize the text before and after a space independently.
    """
    model = backend.model
    is_bpe = type(model).__name__ == "BPE" and backend.token_to_id(space) is not None
    if not is_bpe or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    crossing = set()
    for token in backend.get_vocab(with_added_tokens=False):
        start = token.find(space, 1)
        while start > 0:
            crossing.add(token[start - 1])
            start = token.find(space, start + 1)
    return frozenset(crossing - {space})


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
