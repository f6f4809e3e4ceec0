"""Tokenize texts from cached pieces. The result is exact for tokenizers with joints (`rerank.lm.token_joints`).

A text is divided at its joints, mostly into words. The token ids of the pieces are kept in a memo across rounds and
queries. A passage is therefore not tokenized again when it appears in another context. Looking up the pieces of a text
in the memo takes less than a tenth of the time of tokenizing the text.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain, count
from operator import add
from pathlib import Path
from typing import Any, NamedTuple, cast

from rerank.lm.token_dictionary import TokenDictionary, open_token_dictionaries, write_token_dictionary
from rerank.lm.token_joints import CARRIER, Joints, find_token_joints
from rerank.prompts.bounded_memo import ENTRY_BYTES, BoundedMemo

#: Maximum size of the memos of token ids and of character spans, in bytes.
_IDS_BYTES, _SPANS_BYTES = 32 << 20, 4 << 20

#: Test texts. A tokenizer is used piece by piece only if the tokens of all these texts are then unchanged.
_PROBES = (
    "",
    " ",
    "[1] Title: On fleas Content: They live 12 weeks, don't they?\n[2] naïve café – 100% of 3,000\n\nQuery: what is\n",
    "  two  spaces \n line\tof\n\n text , with ' marks ' and 日本語 です。 한국어 текст русский عربي\u0301 x\u0301 y",
    "emoji 👩‍💻 and 🏳️‍🌈 , ﬁne ½ ² \u00a0 \u200b end of it... quoted' (12) < |x|> a_b c-d HTTPServer i'm  ",
)

TokenIds = tuple[int, ...]
#: Start and end (exclusive) of each token of a piece, in characters from the beginning of the piece.
_Spans = tuple[tuple[int, int], ...]


class _Edge(NamedTuple):
    """A piece (substring between joints) at the beginning or end of a text, where its tokens may differ."""

    text: str
    is_first: bool
    is_open: bool  # not followed by a joint


#: A piece of a text. A ``str`` is a piece between two joints, without the space before it.
_Piece = str | _Edge


@dataclass(frozen=True, slots=True)
class TokenPieces:
    """A text, divided into pieces at joints.

    Attributes:
        texts: Text of each piece. A space between two pieces belongs to the second piece and is omitted here.
        pieces: The pieces, as keys of the memo.
        ids: Token ids of each piece.
    """

    texts: list[str]
    pieces: list[_Piece]
    ids: list[TokenIds]

    @property
    def length(self) -> int:
        """The number of tokens of the text."""
        return sum(map(len, self.ids))

    def joined(self) -> list[int]:
        """Return the token ids of the whole text, joined from those of its pieces."""
        return list(chain.from_iterable(self.ids))

    def starts(self) -> list[int]:
        """Return the position of the first character of each piece in the text."""
        # Piece i > 0 starts with the space after the pieces before it and the i - 1 spaces between them.
        ends = accumulate(map(len, self.texts[:-1]))
        return [0, *map(add, ends, count())]

    def tokens_before(self) -> list[int]:
        """Return the number of tokens before each piece and, as the last item, the number of tokens of the text."""
        return list(accumulate(map(len, self.ids), initial=0))

    def find(self, tokens: Iterable[int]) -> list[int]:
        """Return, for each token position in the text, the index of the piece that contains the token."""
        before = self.tokens_before()
        return [bisect_right(before, token) - 1 for token in tokens]


class JoinedTokenizer:
    """A tokenizer that tokenizes texts piece by piece and keeps the token ids of the pieces.

    Args:
        tokenizer: A tokenizer of transformers.
        joints: The joints of this tokenizer.
        dictionaries: Dictionaries with the token ids of the words of corpora.
    """

    def __init__(self, tokenizer: Any, joints: Joints, dictionaries: Sequence[TokenDictionary] = ()) -> None:
        """Create empty memos."""
        self._tokenizer, self._joints, self._dictionaries = tokenizer, joints, dictionaries
        self._ids: BoundedMemo[_Piece, TokenIds] = BoundedMemo(_IDS_BYTES, _joined_token_ids_size)
        self._spans: BoundedMemo[_Piece, _Spans] = BoundedMemo(_SPANS_BYTES, _joined_token_spans_size)
        #: One int object per token id; without sharing, each occurrence would be a separate object of 28 bytes.
        self._shared: dict[int, int] = {}
        self._carrier = len(self._encode([CARRIER])[0])

    @property
    def has_exact_positions(self) -> bool:
        """Whether `tokens_before` and `ends` are exact; a normalizer that removes characters shifts later offsets."""
        return self._joints.normalizer is None

    @classmethod
    def of(cls, tokenizer: Any) -> JoinedTokenizer | None:
        """Create a joined tokenizer for a transformers tokenizer.

        None is returned if the tokenizer has no joints, or if it tokenizes one of a few test texts differently.
        """
        joints = find_token_joints(tokenizer)
        joined = None if joints is None else cls(tokenizer, joints, open_token_dictionaries(tokenizer))
        return joined if joined is not None and joined._is_exact(_PROBES) else None

    def divide(self, texts: Sequence[str]) -> list[TokenPieces]:
        """Divide texts into pieces, and tokenize all pieces that are not in the memo together."""
        divided = [self._divide(text) for text in texts]
        missing = [[index for index, row in enumerate(part.ids) if row is None] for part in divided]
        pieces = (part.pieces[index] for part, indices in zip(divided, missing, strict=True) for index in indices)
        new = self._tokenize(dict.fromkeys(pieces))
        for part, indices in zip(divided, missing, strict=True):
            for index in indices:
                part.ids[index] = new[part.pieces[index]]
        return divided

    def write_dictionary(self, passages: Iterable[str], folder: Path) -> None:
        """Write a dictionary with the token ids of all words in the passages, except words not followed by a joint."""

        def tokenize(words: list[str]) -> Iterator[list[int]]:
            return (ids[self._carrier :] for ids in self._encode(list(map(_carrier_text_for_token_ids, words))))

        words = chain([CARRIER], chain.from_iterable(map(str.split, passages)))  # an empty file cannot be mapped
        write_token_dictionary(filter(cache(self._joints.closes), words), folder, tokenize)

    def prefix_lengths(self, text: str, ends: Sequence[int]) -> list[int | None]:
        """Return the number of tokens of each prefix of a text, if these tokens are also the first tokens of the text.

        Args:
            text: The text.
            ends: Number of characters of each prefix.

        Returns:
            Number of tokens of each prefix; None for a prefix whose tokens depend on the text after it.
        """
        (divided,) = self.divide([text])
        starts, before = divided.starts(), divided.tokens_before()
        indices = [bisect_right(starts, end) - 1 for end in ends]
        # For each prefix, the part of its last piece that is before the end of the prefix.
        heads = [
            self._last_piece(text[starts[index] + (index > 0) : end], is_first=index == 0)
            for index, end in zip(indices, ends, strict=True)
        ]
        rows = self._ids_of(heads)
        lengths: list[int | None] = []
        for index, end, head in zip(indices, ends, heads, strict=True):
            row = rows[head] if end > starts[index] else ()
            lengths.append(before[index] + len(row) if divided.ids[index][: len(row)] == row else None)
        return lengths

    def tokens_before(self, text: str, positions: Sequence[int]) -> list[int]:
        """Return, for each position in a text, the number of tokens that start before it."""
        (divided,) = self.divide([text])
        starts, before = divided.starts(), divided.tokens_before()
        indices = [bisect_right(starts, position) - 1 for position in positions]
        spans = self._spans_of([divided.pieces[index] for index in indices])
        counts = []
        for index, position in zip(indices, positions, strict=True):
            first_characters = token_starts(spans[divided.pieces[index]])
            counts.append(before[index] + bisect_left(first_characters, position - starts[index]))
        return counts

    def ends(self, texts: Sequence[str], tokens: int) -> list[Iterator[int]]:
        """Return, for each text, the end positions of its first ``tokens`` tokens, from the last token to the first.

        Byte-level tokens may share a character. The earlier of two such tokens ends before the character.
        If the text has at most ``tokens`` tokens, its length is the only position.
        """
        divided = self.divide(texts)
        longer = [part for part in divided if part.length > tokens]
        self._spans_of([part.pieces[index] for part in longer for index in part.find(range(tokens - 1, tokens + 1))])
        return [
            self._ends(part, tokens) if part.length > tokens else iter([len(text)])
            for part, text in zip(divided, texts, strict=True)
        ]

    def _ends(self, divided: TokenPieces, tokens: int) -> Iterator[int]:
        starts, before = divided.starts(), divided.tokens_before()
        for number in range(tokens, 0, -1):
            index, next_index = divided.find((number - 1, number))
            pieces = divided.pieces[index], divided.pieces[next_index]
            spans = self._spans_of(pieces)
            _, end = spans[pieces[0]][number - 1 - before[index]]
            next_start, _ = spans[pieces[1]][number - before[next_index]]
            yield min(starts[index] + end, starts[next_index] + next_start)

    def _divide(self, text: str) -> TokenPieces:
        """Return the pieces of a text; the token ids of pieces that are not in the memo are None."""
        words = text.split(" ")
        pieces = self._pieces(words)
        ids = self._ids.get_all(pieces)
        # Words in the memo are followed by a joint. Other words may have to be merged with the words after them.
        is_open = [index for index, row in enumerate(ids[:-1]) if row is None and not self._joints.closes(words[index])]
        if is_open:
            words = self._merge(words, is_open)
            pieces = self._pieces(words)
            ids = self._ids.get_all(pieces)
        return TokenPieces(words, pieces, cast(list[TokenIds], ids))

    def _pieces(self, texts: list[str]) -> list[_Piece]:
        """Return the pieces with these texts, where the first and the last one are marked as edges."""
        if len(texts) == 1:
            return [self._last_piece(texts[0], is_first=True)]
        return [_Edge(texts[0], True, False), *texts[1:-1], self._last_piece(texts[-1], is_first=False)]

    def _last_piece(self, text: str, *, is_first: bool) -> _Piece:
        is_open = not self._joints.closes(text)
        return _Edge(text, is_first, is_open) if is_first or is_open else text

    def _merge(self, words: list[str], is_open: Iterable[int]) -> list[str]:
        """Merge each word that does not end at a joint with the words after it, up to the next joint."""
        texts: list[str] = []
        position = 0
        for index in is_open:
            if index < position:
                continue
            texts += words[position:index]
            text, position = words[index], index + 1
            while position < len(words) and not self._joints.closes(text):
                text += f" {words[position]}"
                position += 1
            texts.append(text)
        return texts + words[position:]

    def _ids_of(self, pieces: Sequence[_Piece]) -> dict[_Piece, TokenIds]:
        """Return the token ids of pieces, from the memo if possible."""
        stored = dict(zip(pieces, self._ids.get_all(pieces), strict=True))
        new = self._tokenize([piece for piece, ids in stored.items() if ids is None])
        return {piece: new[piece] if ids is None else ids for piece, ids in stored.items()}

    def _tokenize(self, pieces: Collection[_Piece]) -> dict[_Piece, TokenIds]:
        """Tokenize pieces, or look them up in the dictionaries, and add them to the memo."""
        if not pieces:
            return {}
        new, share = self._look_up(pieces), self._shared.setdefault
        others = [piece for piece in pieces if piece not in new] if new else pieces
        for piece, ids in zip(others, self._encode(list(map(_carrier_text_for_token_ids, others))), strict=True):
            own = ids if _is_first_piece(piece) else ids[self._carrier :]
            new[piece] = tuple([share(token, token) for token in own])
        self._ids.put_all(new.items())
        return new

    def _look_up(self, pieces: Collection[_Piece]) -> dict[_Piece, TokenIds]:
        """Return a mapping from each piece that is in a dictionary to its token ids; other pieces are missing."""
        return {
            piece: ids
            for dictionary in self._dictionaries
            for piece in pieces
            if isinstance(piece, str) and (ids := dictionary.find(piece)) is not None
        }

    def _spans_of(self, pieces: Sequence[_Piece]) -> dict[_Piece, _Spans]:
        """Return the character spans of the tokens of each piece, from the memo if possible."""
        stored = dict(zip(pieces, self._spans.get_all(pieces), strict=True))
        unknown = [piece for piece, spans in stored.items() if spans is None]
        new: dict[_Piece, _Spans] = {}
        if unknown:
            texts = list(map(_carrier_text_for_token_ids, unknown))
            rows = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            for piece, row in zip(unknown, rows, strict=True):
                skipped, shift = (0, 0) if _is_first_piece(piece) else (self._carrier, len(CARRIER))
                new[piece] = tuple((start - shift, end - shift) for start, end in row[skipped:])
            self._spans.put_all(new.items())
        return {piece: new[piece] if spans is None else spans for piece, spans in stored.items()}

    def _encode(self, texts: list[str]) -> list[list[int]]:
        backend = self._tokenizer.backend_tokenizer
        if backend.truncation is None and backend.padding is None:  # for single words, half the time of the call below
            return [backend.encode(text, add_special_tokens=False).ids for text in texts]
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def _is_exact(self, texts: Sequence[str]) -> bool:
        """Return whether this class returns the same tokens and positions as the tokenizer for the given texts."""
        encoding = self._tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        for text, divided, ids, offsets in zip(
            texts, self.divide(texts), encoding["input_ids"], encoding["offset_mapping"], strict=True
        ):
            starts, positions = token_starts(offsets), range(len(text))
            counts = [bisect_left(starts, position) for position in positions]
            if divided.joined() != ids:
                return False
            if self.has_exact_positions and self.tokens_before(text, positions) != counts:
                return False
        return True


def token_starts(offsets: Iterable[tuple[int, int]]) -> list[int]:
    """Return the position of the first character of each token, in non-decreasing order.

    A token without characters, such as a special token that the tokenizer adds, starts where the preceding token ends.

    Args:
        offsets: Start and end (exclusive) of each token, in characters.
    """
    starts: list[int] = []
    last_end = 0
    for start, end in offsets:
        starts.append(max(start, starts[-1] if starts else 0) if end > start else last_end)
        last_end = max(last_end, end)
    return starts


def _token_piece_text(piece: _Piece) -> str:
    return piece if isinstance(piece, str) else piece.text


def _is_first_piece(piece: _Piece) -> bool:
    return not isinstance(piece, str) and piece.is_first


def _carrier_text_for_token_ids(piece: _Piece) -> str:
    """Return a short text in which a piece has the same tokens as in the text that contains it."""
    return _token_piece_text(piece) if _is_first_piece(piece) else f"{CARRIER} {_token_piece_text(piece)}"


def _joined_token_ids_size(piece: _Piece, ids: TokenIds) -> int:
    return ENTRY_BYTES + sys.getsizeof(_token_piece_text(piece)) + 8 * len(ids)


def _joined_token_spans_size(piece: _Piece, spans: _Spans) -> int:
    return ENTRY_BYTES + sys.getsizeof(_token_piece_text(piece)) + 120 * len(spans)
