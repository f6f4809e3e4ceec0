"""Postings (term, document, count) and their BM25 weights.

Postings are collected on disk in blocks, and then inverted into one list per term.

A collection may have several shards, each with its own postings. Their weights depend on the counts over all shards.
The memory needed grows with the number of documents and distinct terms, not with the length of the texts, whereas the
index builder of bm25s needs about 40 bytes per word.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_BLOCKS, _SIZES, _LENGTHS, _FREQUENCIES, _TERMS = "blocks", "sizes.npy", "lengths.npy", "frequencies.npy", "terms.json"
#: Number of words that are collected before a block is written.
BLOCK = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bm25Weights:
    """BM25 weights of terms in documents, by the formulas of Kamphuis et al. (ECIR 2020), as implemented in bm25s.

    Attributes:
        idf: Inverse document frequencies, shape (terms,).
        norm: Length norms of the documents, ``k1 * (1 - b + b * length / average length)``, shape (documents,).
        scale: ``k1 + 1`` for ATIRE, 1 otherwise.
    """

    idf: Floats
    norm: Doubles
    scale: float

    @classmethod
    def from_statistics(
        cls,
        statistics: CollectionStatistics,
        lengths: Longs,
        *,
        k1: float,
        b: float,
        method: Literal["lucene", "robertson", "atire"],
    ) -> Bm25Weights:
        """Compute the weights in a shard from the collection's counts and the lengths of the shard's documents."""
        total, frequencies = statistics.documents, statistics.frequencies.astype(np.float64)  # N and df(t)
        average = statistics.words / total
        norm = k1 * ((1 - b) + b * lengths.astype(np.float64) / average)
        if method == "lucene":
            idf = np.log(1 + (total - frequencies + 0.5) / (frequencies + 0.5))
        elif method == "robertson":
            idf = np.log(np.maximum((total - frequencies + 0.5) / (frequencies + 0.5), 1))
        else:
            idf = np.log(total / frequencies)
        return cls(
            idf=idf.astype(np.float32),
            norm=norm,
            scale=k1 + 1 if method == "atire" else 1.0,
        )

    def __call__(self, terms: Ints, docs: Ints, counts: Ints) -> Floats:
        """Return the weights of postings, shape (postings,), from their terms, documents and term frequencies."""
        # idf(t) * tf * scale / (tf + k1 * (1 - b + b * |d| / avgdl))
        return (self.idf[terms] * (counts * self.scale / (counts + self.norm[docs]))).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollectionStatistics:
    """Counts over all shards of a collection, on which the weights in every shard depend.

    Attributes:
        documents: Number of documents.
        words: Number of words in all documents.
        vocabulary: Mapping from term to term number, in order of first occurrence.
        frequencies: Document frequency of each term, shape (terms,).
    """

    documents: int
    words: int
    vocabulary: Mapping[str, int]
    frequencies: Longs

    @classmethod
    def of_shards(cls, folders: Iterable[Path]) -> CollectionStatistics:
        """Add up the counts that `Postings.finish` wrote for each shard; ``folders`` are in the order of the shards."""
        documents = words = 0
        vocabulary: dict[str, int] = {}
        frequencies: Longs = np.zeros(0, dtype=np.int64)
        for folder in folders:
            shard = SavedPostings(folder)
            documents, words = documents + len(shard.lengths), words + int(shard.lengths.sum())
            numbers = [vocabulary.setdefault(term, len(vocabulary)) for term in shard.terms()]
            frequencies = np.pad(frequencies, (0, len(vocabulary) - len(frequencies)))
            frequencies[numbers] += shard.frequencies
        return cls(documents=documents, words=words, vocabulary=vocabulary, frequencies=frequencies)


class Postings:
    """A builder of the postings of one shard. It is a context manager, and needs a folder for its exclusive use.

    Attributes:
        vocabulary: Mapping from term to term number, in order of first occurrence.
        lengths: Number of words of each document.
        frequencies: Document frequency of each term, shape (terms,); complete after `finish`.
    """

    def __init__(self, folder: Path) -> None:
        """Open the block file in ``folder``."""
        self.vocabulary: dict[str, int] = {}
        self.lengths = array("q")
        self.frequencies: Longs = np.zeros(0, dtype=np.int64)
        self._folder = folder
        self._stack = ExitStack()
        self._file: IO[bytes] = self._stack.enter_context((folder / _BLOCKS).open("wb"))
        self._blocks: list[int] = []
        self._words = array("i")
        self._first = 0

    def __enter__(self) -> Postings:
        """Return the builder itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the block file."""
        self._stack.close()

    def add(self, terms: list[str]) -> None:
        """Add the terms of the next document."""
        vocabulary = self.vocabulary
        self._words.extend([vocabulary.setdefault(term, len(vocabulary)) for term in terms])
        self.lengths.append(len(terms))
        if len(self._words) >= BLOCK:
            self._write()

    def finish(self) -> None:
        """Write the last block and the counts; all documents must have been added."""
        self._write()
        self._file.flush()
        for name, counts in ((_SIZES, self._blocks), (_LENGTHS, self.lengths), (_FREQUENCIES, self.frequencies)):
            np.save(self._folder / name, np.asarray(counts, dtype=np.int64), allow_pickle=False)
        (self._folder / _TERMS).write_text(json.dumps(list(self.vocabulary)), encoding="ascii")

    def _write(self) -> None:
        """Count the words of the collected documents, and append a block of shape (3, postings).

        Its int32 rows are documents, terms and counts.
        """
        words = np.frombuffer(self._words, dtype=np.int32).astype(np.int64)
        lengths = np.array(self.lengths[self._first :], dtype=np.int64)
        docs = np.repeat(np.arange(self._first, len(self.lengths), dtype=np.int64), lengths)
        # one 64-bit key per word: the document in the upper half, the term in the lower half
        pairs, counts = np.unique(docs << 32 | words, return_counts=True)
        terms = (pairs & 0xFFFFFFFF).astype(np.int32)
        self._file.write(np.stack([(pairs >> 32).astype(np.int32), terms, counts.astype(np.int32)]).tobytes())
        self._blocks.append(len(pairs))
        self.frequencies = np.pad(self.frequencies, (0, len(self.vocabulary) - len(self.frequencies)))
        self.frequencies += np.bincount(terms, minlength=len(self.vocabulary))
        self._words, self._first = array("i"), len(self.lengths)


class SavedPostings:
    """The postings of one shard that `Postings` collected, possibly in another process.

    Attributes:
        lengths: Number of words of each document, shape (documents,).
        frequencies: Number of documents in the shard that contain each of the shard's terms, shape (shard terms,).
    """

    def __init__(self, folder: Path) -> None:
        """Read the counts that `Postings.finish` wrote."""
        self._folder = folder
        self._blocks, self.lengths, self.frequencies = (
            np.load(folder / name, allow_pickle=False) for name in (_SIZES, _LENGTHS, _FREQUENCIES)
        )

    def terms(self) -> list[str]:
        """Return the terms of the shard, in the order of their numbers."""
        terms: list[str] = json.loads((self._folder / _TERMS).read_text(encoding="ascii"))
        return terms

    def by_term(
        self, vocabulary: Mapping[str, int], weigh: Callable[[Ints, Ints, Ints], Floats]
    ) -> tuple[Floats, Ints, Longs]:
        """Return the weighted postings sorted by term, after inverting them block by block.

        Args:
            vocabulary: Mapping from term to term number in the whole collection.
            weigh: Function that returns the weights of postings from their terms, documents and counts.

        Returns:
            The three arrays of a sparse matrix with one column per term of the collection, compressed by column. The
            weights and the documents have shape (postings,) and are memory-mapped in the folder; the documents of each
            term are in ascending order. The array of the start of each term's postings has shape (terms + 1,).
        """
        # the number in the collection of each term of the shard, shape (shard terms,)
        numbers = np.array([vocabulary[term] for term in self.terms()], dtype=np.int32)
        frequencies: Longs = np.zeros(len(vocabulary), dtype=np.int64)
        frequencies[numbers] = self.frequencies
        starts = np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int64)
        # a memory map cannot be empty, but a shard may have no words
        weights: Floats = np.memmap(self._folder / "weights", np.float32, "w+", shape=(max(1, int(starts[-1])),))
        indices: Ints = np.memmap(self._folder / "documents", np.int32, "w+", shape=(max(1, int(starts[-1])),))
        next_free = starts[:-1].copy()  # shape (terms,): position of the next posting of each term
        with (self._folder / _BLOCKS).open("rb") as file:
            for size in self._blocks.tolist():
                docs, terms, counts = np.frombuffer(file.read(12 * size), dtype=np.int32).reshape(3, size)
                terms = numbers[terms]
                order = np.argsort(terms, kind="stable")
                docs, terms, counts = docs[order], terms[order], counts[order]
                per_term = np.bincount(terms, minlength=len(next_free))
                before = (np.cumsum(per_term) - per_term)[terms]  # number of postings of lower terms in this block
                targets = next_free[terms] + np.arange(size) - before
                weights[targets] = weigh(terms, docs, counts)
                indices[targets] = docs
                next_free += per_term
        return weights[: starts[-1]], indices[: starts[-1]], starts
