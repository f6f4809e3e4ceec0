"""Storage of the documents of a corpus on disk, once for all its indexes, with access by position."""

import hashlib
import json
import re
from array import array
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rerank.collections.base import Corpus
from rerank.errors import DataError
from rerank.io.paths import cache_dir
from rerank.io.sealed_folders import damaged_sealed_folders, open_sealed_folder, storage_errors
from rerank.types import Document

_FORMAT = "1"
_FINGERPRINT = re.compile("[0-9a-f]{16,128}")
_encode = json.JSONEncoder(ensure_ascii=False).encode
_TEXTS, _OFFSETS, _ID_RANKS = "documents.jsonl", "offsets.npy", "id_ranks.npy"


class StoredDocuments:
    """The memory-mapped documents of one corpus, accessed by position.

    ``id_ranks``, for ties, is the rank of each document's id among all ids in ascending order, shape (documents,).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # np.asarray returns a plain view of the memory map, which is cheaper to slice than np.memmap
        self.id_ranks: NDArray[np.int64] = np.asarray(np.load(folder / _ID_RANKS, mmap_mode="r", allow_pickle=False))
        self._offsets: NDArray[np.int64] = np.asarray(np.load(folder / _OFFSETS, mmap_mode="r", allow_pickle=False))
        self._texts: NDArray[np.uint8] = np.asarray(np.memmap(folder / _TEXTS, dtype=np.uint8, mode="r"))
        if len(self._offsets) != len(self.id_ranks) + 1 or self._offsets[-1] != len(self._texts):
            raise ValueError("its files do not match each other")

    def __len__(self) -> int:
        return len(self.id_ranks)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Array of shape (documents,): the size of each document in bytes, including id and title."""
        return np.diff(self._offsets)

    def __getitem__(self, position: int) -> Document:
        start, end = self._offsets[position], self._offsets[position + 1]
        try:
            doc_id, title, text, *image = json.loads(self._texts[start:end].tobytes().decode("utf-8", "surrogatepass"))
        except ValueError as error:
            raise DataError(
                f"Document number {position} in {self.folder} cannot be read: {error}",
                remedy=f"Remove {self.folder}; it is built again from the collection",
            ) from error
        return Document(id=doc_id, title=title, text=text, image=image[0] if image else "")

    def __iter__(self) -> Iterator[Document]:
        return (self[position] for position in range(len(self)))


def folder_key(made_from: Mapping[str, str]) -> str:
    """Return a short folder name that identifies ``made_from``: 16 hex digits of its SHA-256."""
    return hashlib.sha256(json.dumps(dict(made_from), sort_keys=True).encode("utf-8")).hexdigest()[:16]


def corpus_folder(corpus: Corpus) -> Path:
    """Return the cache folder for everything that is built from a corpus."""
    if not _FINGERPRINT.fullmatch(corpus.fingerprint):
        raise DataError(
            f"The collection {corpus.name!r} has the fingerprint {corpus.fingerprint!r}",
            expected="16 or more hexadecimal digits that change with the collection's content",
        )
    return cache_dir("indexes", corpus.fingerprint)


def damaged_corpus_indexes(fingerprint: str) -> list[tuple[Path, str]]:
    """Return the damaged cache folders built from a corpus, with their damage; none if the fingerprint is invalid."""
    is_valid = _FINGERPRINT.fullmatch(fingerprint)
    return list(damaged_sealed_folders(cache_dir("indexes", fingerprint))) if is_valid else []


def open_documents(corpus: Corpus) -> StoredDocuments:
    """Open the stored documents of a corpus; the first call reads them from the corpus in one pass and stores them."""
    made_from = {"format": _FORMAT, "fingerprint": corpus.fingerprint}
    folder = corpus_folder(corpus) / f"documents-{_FORMAT}"
    return open_sealed_folder(folder, made_from, lambda target: _store(corpus, target), StoredDocuments)


def _store(corpus: Corpus, folder: Path) -> None:
    ids: list[str] = []
    offsets = array("q", [0])
    with storage_errors(folder):
        file = (folder / _TEXTS).open("wb")
    try:
        for doc in corpus.docs():
            ids.append(doc.id)
            line = _encode([doc.id, doc.title, doc.text, *([doc.image] if doc.image else [])]) + "\n"
            with storage_errors(folder):
                offsets.append(offsets[-1] + file.write(line.encode("utf-8", "surrogatepass")))
    finally:
        with storage_errors(folder):
            file.close()
    name = corpus.name
    if not ids:
        raise DataError(f"The collection {name!r} has no documents", remedy="Check its path and its options")
    if len(set(ids)) < len(ids):
        duplicate = next(a for a, b in pairwise(sorted(ids)) if a == b)
        raise DataError(f"The collection {name!r} contains document {duplicate!r} twice", expected="each id once")
    ranks = np.empty(len(ids), dtype=np.int64)
    # inverse of the sorting permutation: the rank of each document's id
    ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    with storage_errors(folder):
        np.save(folder / _OFFSETS, np.frombuffer(offsets, dtype=np.int64), allow_pickle=False)
        np.save(folder / _ID_RANKS, ranks, allow_pickle=False)


def even_document_ranges(documents: int, largest: int) -> list[tuple[int, int]]:
    """Divide documents into the fewest ranges of at most ``largest`` documents, of almost equal sizes.

    >>> even_document_ranges(10, 4)
    [(0, 3), (3, 6), (6, 10)]
    """
    count = -(-documents // largest)  # rounded up
    return list(pairwise(documents * number // count for number in range(count + 1)))
