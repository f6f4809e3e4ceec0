"""Dictionaries of the token ids of a corpus's words, in memory-mapped files that are written once.

The token ids of a whole passage depend on the text around it and on where it is truncated. The token ids of a word
between two joints do not (`rerank.lm.joined_tokens`), so they can be stored and used in every prompt. All dictionaries
of a tokenizer are used, whatever corpora they were made from: the token ids of a stored word are always correct, and
words that are not stored are tokenized.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rerank.errors import DataError
from rerank.io.paths import cache_dir
from rerank.io.sealed_folders import sealed_folders, storage_errors

#: Names of the files: ascending hashes of the words; texts of all words in this order, and the end of each text; token
#: ids of all words in this order, and the end of each word's ids.
_FILES = ("keys.npy", "texts.npy", "text_ends.npy", "ids.npy", "id_ends.npy")


class TokenDictionary:
    """A dictionary of the token ids of words, in a folder that `write_dictionary` has written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys, self._texts, self._text_ends, self._ids, self._id_ends = (
            memoryview(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in _FILES
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenDictionary, (self._folder,)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, word: str) -> tuple[int, ...] | None:
        """Return the token ids of a word; None if it is not stored."""
        row = bisect_left(self._keys, _hash(word))
        # Another word may have the same hash, and the row is `len(self)` if all hashes are smaller.
        if row < len(self) and self._texts[self._text_ends[row] : self._text_ends[row + 1]] == word.encode():
            return tuple(self._ids[self._id_ends[row] : self._id_ends[row + 1]])
        return None


def write_dictionary(words: Iterable[str], folder: Path, tokenize: Callable[[str], Iterable[int]]) -> None:
    """Write the files of a `TokenDictionary`; all distinct words must fit into memory.

    Args:
        words: The words; if several words have the same hash, only one of them is stored.
        folder: An empty folder.
    """
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
