"""Tokenize texts from words whose token ids are kept in a memo, with the same token ids as the tokenizer's own.

A *joint* is a position before a space, after a character that is not whitespace. For the tokenizers that
`JoinedTokenizer.of` accepts, and for every text with a joint at position p,

    ids(text) = ids(text[:p]) + (ids(C + text[p:]) without ids(C)),    C = `CARRIER`, an ordinary character.

A text is therefore divided at its joints, mostly into words, and a passage is not tokenized again when it appears in
another prompt. The equation follows from how the ``tokenizers`` library works:

1. Special and other added tokens are found in the text first. None of them contains a space after another character,
   so none crosses a joint. There is no joint after the last character of an added token, because the pieces of text
   between added tokens are normalized and split separately.
2. The accepted normalizers change the characters on both sides of a joint independently: they map single characters,
   or compose characters, and Unicode never composes a space with the character before it.
3. The pre-tokenizer splits the text into words, and a joint begins a new word.
4. The model tokenizes every word independently. If the pre-tokenizer does not split at spaces, the model must be BPE,
   and there is no joint after a character that precedes a space inside a token of its vocabulary. Then no merge crosses
   a joint.

A tokenizer for which one of these steps cannot be verified tokenizes whole texts.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, count
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

from rerank.errors import DataError, UsageError
from rerank.io.paths import cache_dir
from rerank.io.sealed_folders import open_sealed_folder, sealed_folders, storage_errors
from rerank.prompts.base import TokenCounter
from rerank.prompts.bounded_memo import ENTRY_BYTES, BoundedMemo
from rerank.prompts.passages import passage_text
from rerank.types import Document

#: Character inserted before a piece of a text, so that the piece is not tokenized as the beginning of a text.
CARRIER = "x"
#: Character that represents a space in the vocabularies of SentencePiece models.
_METASPACE = "\u2581"
#: Maximum size of the memo of token ids, in bytes.
_MEMO_BYTES = 32 << 20
#: Number of characters from which a piece is tokenized as a batch: unlike single texts, batches release the interpreter
#: lock, and a piece of some languages, or of spaces, can be a whole document.
_LONG_PIECE = 2000
#: Version of the files of a dictionary; it must change when the same corpus and tokenizer lead to other files.
_FORMAT = "1"
#: Test texts. A tokenizer is used piece by piece only if the token ids of all these texts are then unchanged.
_PROBES = (
    "",
    " ",
    "[1] Title: On fleas Content: They live 12 weeks, don't they?\n[2] naïve café – 100% of 3,000\n\nQuery: what is\n",
    "  two  spaces \n line\tof\n\n text , with ' marks ' and 日本語 です。 한국어 текст русский عربي\u0301 x\u0301 y",
    "emoji 👩‍💻 and 🏳️‍🌈 , ﬁne ½ ² \u00a0 \u200b end of it... quoted' (12) < |x|> a_b c-d HTTPServer i'm  ",
)

TokenIds = tuple[int, ...]
#: A piece as a key of the memo: its text without the space before it or, at the beginning of a text, in a tuple.
_Piece = str | tuple[str]


class TokenPieces(NamedTuple):
    """A text divided at its joints. A space between two pieces belongs to the second piece and is omitted here."""

    pieces: list[_Piece]
    ids: list[TokenIds]

    def joined(self) -> list[int]:
        return list(chain.from_iterable(self.ids))

    def starts(self) -> tuple[list[int], list[int]]:
        """Return the number of characters and the number of tokens before each piece."""
        # Piece i > 0 starts with the space after the pieces before it and the i - 1 spaces between them.
        ends = accumulate(len(piece) if isinstance(piece, str) else len(piece[0]) for piece in self.pieces[:-1])
        return [0, *map(add, ends, count())], [0, *accumulate(map(len, self.ids[:-1]))]


class JoinedTokenizer:
    """A tokenizer that tokenizes texts piece by piece and keeps the token ids of the pieces."""

    def __init__(self, tokenizer: Any, open_ends: str, dictionaries: Sequence[TokenDictionary] = ()) -> None:
        self.tokenizer, self._dictionaries = tokenizer, dictionaries
        self._joint = re.compile(rf" (?<=[^\s{re.escape(open_ends)}] )")
        self._memo: BoundedMemo[_Piece, TokenIds] = BoundedMemo(
            _MEMO_BYTES, lambda piece, ids: ENTRY_BYTES + sys.getsizeof(piece) + 36 * len(ids)
        )
        self._carrier = len(self._encode((CARRIER,)).ids)

    @classmethod
    def of(cls, tokenizer: Any) -> JoinedTokenizer | None:
        """Create a joined tokenizer for a transformers tokenizer; None if it may tokenize some text differently."""
        open_ends = _open_ends(tokenizer)
        if open_ends is None:
            return None
        joined = cls(tokenizer, open_ends, open_dictionaries(tokenizer))
        expected = tokenizer(list(_PROBES), add_special_tokens=False)["input_ids"]
        return joined if [pieces.joined() for pieces in joined.divide(_PROBES)] == expected else None

    def divide(self, texts: Sequence[str]) -> list[TokenPieces]:
        divided = []
        for text in texts:
            first, *others = self._joint.split(text)
            divided.append(self._look_up([(first,), *others]))
        return divided

    def write_dictionary(self, passages: Iterable[str], folder: Path) -> None:
        """Write a `TokenDictionary` of all pieces of the passages, except for those that do not end at a joint."""

        def words() -> Iterator[str]:
            yield CARRIER  # an empty file cannot be mapped
            for passage in passages:
                yield from self._joint.split(f"{' '.join(passage.split())} ")[:-1]

        write_dictionary(words(), folder, self._tokenize)

    def prefix_lengths(self, text: str, ends: Sequence[int]) -> list[int | None]:
        """Return the number of tokens of each prefix of a text; None if its tokens depend on the text after it."""
        (divided,) = self.divide([text])
        starts, before = divided.starts()
        indices = [bisect_right(starts, end) - 1 for end in ends]
        # For each prefix, the part of its last piece that is before the end of the prefix.
        heads = [text[starts[index] + (index > 0) : end] for index, end in zip(indices, ends, strict=True)]
        rows = self._look_up([head if index else (head,) for index, head in zip(indices, heads, strict=True)]).ids
        lengths: list[int | None] = []
        for index, end, row in zip(indices, ends, rows, strict=True):
            ids = row if end > starts[index] else ()
            lengths.append(before[index] + len(ids) if divided.ids[index][: len(ids)] == ids else None)
        return lengths

    def tokens_before(self, text: str, positions: Sequence[int]) -> list[int]:
        """Return, for each position in a text, the number of tokens that start before it."""
        (divided,) = self.divide([text])
        starts, before = divided.starts()
        indices = [bisect_right(starts, position) - 1 for position in positions]
        first_characters = {index: token_starts(self._spans(divided.pieces[index])) for index in set(indices)}
        return [
            before[index] + bisect_left(first_characters[index], position - starts[index])
            for index, position in zip(indices, positions, strict=True)
        ]

    def head(self, text: str, end: int) -> str:
        """Return the beginning of a text up to a joint after ``end``; up to ``end`` if the next joint is far."""
        joint = self._joint.search(text, end, 2 * end)
        return text[: joint.start() if joint else end]

    def ends(self, text: str, tokens: int) -> Iterator[int]:
        """Yield the end positions of the first ``tokens`` tokens of a text, from the last token to the first.

        Byte-level tokens may share a character. The earlier of two such tokens ends before the character.
        If the text has at most ``tokens`` tokens, its length is the only position.
        """
        (divided,) = self.divide([text])
        if sum(map(len, divided.ids)) <= tokens:
            yield len(text)
            return
        starts, before = divided.starts()
        for number in range(tokens, 0, -1):
            edges = []
            for token in (number - 1, number):
                index = bisect_right(before, token) - 1
                start, end = self._spans(divided.pieces[index])[token - before[index]]
                edges.append((starts[index] + start, starts[index] + end))
            yield min(edges[0][1], edges[1][0])

    def _look_up(self, pieces: list[_Piece]) -> TokenPieces:
        ids = self._memo.get_all(pieces)
        new: dict[_Piece, TokenIds] = {}
        for piece, row in zip(pieces, ids, strict=True):
            if row is None and piece not in new:
                new[piece] = self._tokenize(piece)
        if new:
            self._memo.put_all(new.items())
        return TokenPieces(pieces, [new[p] if row is None else row for p, row in zip(pieces, ids, strict=True)])

    def _tokenize(self, piece: _Piece) -> TokenIds:
        if not isinstance(piece, str):
            return tuple(self._encode(piece, has_offsets=False).ids)
        for dictionary in self._dictionaries:
            if (ids := dictionary.find(piece)) is not None:
                return ids
        return tuple(self._encode(piece, has_offsets=False).ids[self._carrier :])

    def _spans(self, piece: _Piece) -> list[tuple[int, int]]:
        """Return start and end of each token of a piece, in characters from the beginning of the piece."""
        spans: list[tuple[int, int]] = self._encode(piece).offsets
        if not isinstance(piece, str):
            return spans
        return [(start - len(CARRIER), end - len(CARRIER)) for start, end in spans[self._carrier :]]

    def _encode(self, piece: _Piece, *, has_offsets: bool = True) -> Any:
        """Return the encoding of a piece, or of a short text in which it has the same tokens as after a joint."""
        text = f"{CARRIER} {piece}" if isinstance(piece, str) else piece[0]
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation is None and backend.padding is None:
            if len(text) > _LONG_PIECE:  # without offsets, it takes half the time
                encode = backend.encode_batch if has_offsets else backend.encode_batch_fast
                return encode([text], add_special_tokens=False)[0]
            # for single words, half the time of the call below
            return backend.encode(text, add_special_tokens=False)
        return self.tokenizer([text], add_special_tokens=False).encodings[0]


def tokenize_corpus(
    read_docs: Callable[[], Iterable[Document]], fingerprint: str, tokens: TokenCounter
) -> tuple[Path, int]:
    """Write the token ids of all words of a corpus to the cache folder, unless it already contains them.

    Afterwards, all backends with the same tokenizer use this dictionary. Token ids, prompts and results do not
    change. The result is the folder of the dictionary, and its number of distinct words.
    """
    joined: JoinedTokenizer | None = getattr(tokens, "joined", None)
    if joined is None:
        raise UsageError(
            "The tokenizer of this model does not tokenize word by word",
            expected="a model in this process, with a fast tokenizer that divides texts at spaces",
            remedy="Omit this step for this model: a token dictionary affects only the speed",
        )

    def build(folder: Path) -> None:
        joined.write_dictionary((passage_text(doc) for doc in read_docs() if doc.title or doc.text), folder)

    folder = dictionaries_folder(joined.tokenizer) / fingerprint
    return folder, len(open_sealed_folder(folder, {"format": _FORMAT}, build, TokenDictionary))


def token_starts(offsets: Iterable[tuple[int, int]]) -> list[int]:
    """Return the position of the first character of each token, in non-decreasing order.

    A token without characters, such as a special token that the tokenizer adds, starts where the preceding token ends.
    """
    starts: list[int] = []
    last_end = 0
    for start, end in offsets:
        starts.append(max(start, starts[-1] if starts else 0) if end > start else last_end)
        last_end = max(last_end, end)
    return starts


def _open_ends(tokenizer: Any) -> str | None:
    """Return the characters after which a space is no joint; None if a tokenizer is not known to have joints."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    backend, added = tokenizer.backend_tokenizer, list(tokenizer.added_tokens_decoder.values())
    model = backend.model
    try:
        normalizers, steps = _steps(backend.normalizer), _steps(backend.pre_tokenizer)
    except Exception:  # noqa: BLE001 - for steps written in Python, the library raises a plain Exception
        return None
    makes_metaspace = any(step["type"] == "Replace" for step in normalizers)
    # Plain normalizers change nothing but spaces and the beginning of a text.
    is_plain = all(
        step["type"] == "Prepend"
        or (step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == _METASPACE)
        for step in normalizers
    )
    splits = [_splits_at_joint(step, makes_metaspace=makes_metaspace) for step in steps]
    if (
        (not is_plain and any(step["type"] not in ("NFC", "NFD", "Lowercase") for step in normalizers))
        or None in splits
        # ByteLevel and Metaspace replace spaces, so a later pre-tokenizer would find no spaces.
        or any(step["type"] in ("ByteLevel", "Metaspace") for step in steps[:-1])
        or type(model).__name__ not in ("BPE", "Unigram")
        or any(getattr(model, name, None) for name in ("dropout", "alpha", "nbest_size"))  # random token ids
        or any(" " in str(token.content).lstrip(" ") for token in added)
        # Such added tokens are found in the normalized text, which may end differently than the original text.
        or (any(token.normalized for token in added) and not is_plain)
    ):
        return None
    ends = {_METASPACE, *(str(token.content)[-1:] for token in added)}
    if not any(splits):
        space = _METASPACE if makes_metaspace or any(step["type"] == "Metaspace" for step in steps) else " "
        is_bpe = type(model).__name__ == "BPE" and backend.token_to_id(space) is not None
        if not (is_bpe and is_plain) or model.continuing_subword_prefix or model.end_of_word_suffix:
            return None
        for token in backend.get_vocab(with_added_tokens=False):
            ends.update(re.findall(f"([^{space}]){space}", token))
    return None if CARRIER in ends else "".join(sorted(ends))


def _steps(component: Any) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer as dictionaries; sequences are replaced by their members."""
    steps, pending = [], [] if component is None else [json.loads(component.__getstate__())]
    while pending:
        step = pending.pop(0)
        members = step.get("normalizers", step.get("pretokenizers"))
        if members is None:
            steps.append(step)
        pending[:0] = members or []
    return steps


def _splits_at_joint(step: dict[str, Any], *, makes_metaspace: bool) -> bool | None:
    """Return whether a pre-tokenizer begins a new word at each joint, or leaves it as it is; None if unknown."""
    kind = step["type"]
    if kind in ("Digits", "Metaspace"):
        return kind == "Metaspace" and bool(step.get("split", True))
    if makes_metaspace:
        return False if kind == "Split" and step["pattern"] == {"String": " "} else None  # as in Gemma
    if kind == "ByteLevel":
        return bool(step["use_regex"])
    is_word = kind == "Split" and (step["behavior"], step["invert"]) in (("Isolated", False), ("Removed", True))
    return regex_splits(step["pattern"]["Regex"]) if is_word and "Regex" in step["pattern"] else None


#: A class of characters without whitespace, with its quantifier.
_CLASS = (
    r"(?:\\p\{[LMNPS]\w?\}|\\d|\[(?:0-9|A-Za-z|一-龥぀-ゟ゠-ヿ|\\r\\n/?|(?:\^\\s)?(?:\\p\{[LMNPS]\w?\})+)\])"
    r"(?:[*+?]\+?|\{1,3\})?"
)
#: A first character that may be a space.
_SPACE = r" \?|\[\^\\r\\n(?:\\p\{[LMNPS]\w?\})+\]\?\+?"
#: An alternative whose matches contain whitespace only. The look-ahead tests a character on the same side of a joint.
_WHITESPACE = r"\\s\*\[\\r\\n\]\+?|\\s\+?(?:\(\?!\\S\))?"
_ALTERNATIVE = re.compile(rf"(?:{_SPACE})?(?:{_CLASS})+|{_WHITESPACE}|'[a-z]+|")
#: Groups and classes with vertical bars of their own: contractions, and punctuation marks.
_GROUPS = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)", r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]""")


def regex_splits(pattern: str) -> bool | None:
    r"""Return whether a regular expression whose matches become words splits at each joint; None if this is unknown.

    If no match contains a space after another character, each match (or gap between matches) before a joint ends at the
    joint, since an alternative for whitespace matches there.

    >>> regex_splits(r" ?\p{L}+|\s+"), regex_splits(r"\p{N}"), regex_splits(r".*")
    (True, False, None)
    """
    pattern = pattern.replace("\r", r"\r").replace("\n", r"\n")
    for group in _GROUPS:
        pattern = pattern.replace(f"{group}?", "").replace(group, "")
    alternatives = pattern.split("|")
    if not all(map(_ALTERNATIVE.fullmatch, alternatives)):
        return None
    if r"\s+" in alternatives:
        return True
    return None if any(re.match(rf"{_SPACE}|\\s\+?(?!\*)", alternative) for alternative in alternatives) else False


#: Names of the files: ascending hashes of the words; texts of all words in this order, and the end of each text; token
#: ids of all words in this order, and the end of each word's ids.
_FILES = ("keys.npy", "texts.npy", "text_ends.npy", "ids.npy", "id_ends.npy")


class TokenDictionary:
    """A dictionary of the token ids of words, in a folder that `write_dictionary` has written."""

    def __init__(self, folder: Path) -> None:
        import numpy as np  # takes 0.1 s, and most runs have no dictionary

        self._folder = folder
        self._keys, self._texts, self._text_ends, self._ids, self._id_ends = (
            memoryview(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in _FILES
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenDictionary, (self._folder,)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, word: str) -> tuple[int, ...] | None:
        row = bisect_left(self._keys, _hash(word))
        # Another word may have the same hash, and the row is `len(self)` if all hashes are smaller.
        if row < len(self) and self._texts[self._text_ends[row] : self._text_ends[row + 1]] == word.encode():
            return tuple(self._ids[self._id_ends[row] : self._id_ends[row + 1]])
        return None


def write_dictionary(words: Iterable[str], folder: Path, tokenize: Callable[[str], Iterable[int]]) -> None:
    """Write the files of a `TokenDictionary` into an empty folder; all distinct words must fit into memory."""
    import numpy as np

    distinct = list(dict.fromkeys(words))
    keys, first = np.unique(np.array(list(map(_hash, distinct)), np.uint64), return_index=True)
    texts, ids, text_ends, id_ends = bytearray(), array("I"), array("q", [0]), array("q", [0])
    for index in first.tolist():
        texts += distinct[index].encode()
        ids.extend(tokenize(distinct[index]))
        text_ends.append(len(texts))
        id_ends.append(len(ids))
    columns = (keys, *map(np.asarray, (np.frombuffer(texts, np.uint8), text_ends, ids, id_ends)))
    with storage_errors(folder):
        for name, column in zip(_FILES, columns, strict=True):
            np.save(folder / name, column, allow_pickle=False)


def dictionaries_folder(tokenizer: Any) -> Path:
    """Return the cache folder for the dictionaries of a fast tokenizer; its name is a hash of the tokenizer's state."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": None, "padding": None, "tokenizers": importlib.metadata.version("tokenizers")}
    return cache_dir("tokens", hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest())


def open_dictionaries(tokenizer: Any) -> list[TokenDictionary]:
    """Open all dictionaries of token ids of a fast tokenizer that are in the user's cache folder."""
    if not cache_dir("tokens").is_dir():
        return []
    found = []
    for folder, damage in sealed_folders(dictionaries_folder(tokenizer)):
        if damage:
            raise DataError(
                f"The token dictionary {str(folder)!r} is damaged: {damage}",
                expected="the files that `rerank models tokenize` wrote",
                remedy="Remove the folder; runs do not need it, and the command writes it again",
            )
        found.append(TokenDictionary(folder))
    return found


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
