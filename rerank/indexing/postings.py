"""Which document has which term how often: collected on disk in blocks, then turned around, term by term.

So that what is held in memory grows with documents and distinct terms and not with the length of the texts; bm25s' own
builder holds some 40 bytes a word. The weights are BM25's. Knows neither texts nor bm25s' files.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
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

#: Words that are collected before a block is written.
BLOCK = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    """BM25's weight of a term in a document, by the formulas of Kamphuis et al. (ECIR 2020), as bm25s has them.

    Attributes:
        idf: Shape (terms,).
        norm: Shape (documents,): ``k1 * (1 - b + b * length / average length)``.
        scale: ``k1 + 1`` for ATIRE, else 1.
    """

    idf: Floats
    norm: Doubles
    scale: float

    @classmethod
    def of(cls, postings: Postings, *, k1: float, b: float, method: Literal["lucene", "robertson", "atire"]) -> Weights:
        """The weights of a collection that is complete."""
        lengths = np.frombuffer(postings.lengths, dtype=np.int64)
        total, found = len(lengths), postings.frequencies.astype(np.float64)
        if method == "lucene":
            idf = np.log(1 + (total - found + 0.5) / (found + 0.5))
        elif method == "robertson":
            idf = np.log(np.maximum((total - found + 0.5) / (found + 0.5), 1))
        else:
            idf = np.log(total / found)
        return cls(
            idf=idf.astype(np.float32),
            norm=k1 * ((1 - b) + b * lengths / lengths.mean()),
            scale=k1 + 1 if method == "atire" else 1.0,
        )

    def __call__(self, terms: Ints, docs: Ints, counts: Ints) -> Floats:
        """Shape (postings,): of each term in each document, in which it stands so many times."""
        return (self.idf[terms] * (counts * self.scale / (counts + self.norm[docs]))).astype(np.float32)


class Postings:
    """Collects documents. Use as a context, in a folder of its own.

    Attributes:
        vocabulary: Term -> its number, in the order in which terms come first.
        lengths: Number of words of each document.
        frequencies: Shape (terms,), after `finish`: how many documents have each.
    """

    def __init__(self, folder: Path) -> None:
        """Open the file of blocks."""
        self.vocabulary: dict[str, int] = {}
        self.lengths = array("q")
        self.frequencies: Longs = np.zeros(0, dtype=np.int64)
        self._folder = folder
        self._stack = ExitStack()
        self._file: IO[bytes] = self._stack.enter_context((folder / "blocks").open("w+b"))
        self._blocks: list[int] = []
        self._words = array("i")
        self._first = 0

    def __enter__(self) -> Postings:
        """Nothing more."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._stack.close()

    def add(self, terms: list[str]) -> None:
        """Take the next document."""
        vocabulary = self.vocabulary
        self._words.extend([vocabulary.setdefault(term, len(vocabulary)) for term in terms])
        self.lengths.append(len(terms))
        if len(self._words) >= BLOCK:
            self._write()

    def finish(self) -> None:
        """Say that there are no more."""
        self._write()

    def _write(self) -> None:
        """Count the words of the collected documents and append (document, term, count), each as a row of int32."""
        words = np.frombuffer(self._words, dtype=np.int32).astype(np.int64)
        lengths = np.array(self.lengths[self._first :], dtype=np.int64)
        docs = np.repeat(np.arange(self._first, len(self.lengths), dtype=np.int64), lengths)
        pairs, counts = np.unique(docs << 32 | words, return_counts=True)
        terms = (pairs & 0xFFFFFFFF).astype(np.int32)
        self._file.write(np.stack([(pairs >> 32).astype(np.int32), terms, counts.astype(np.int32)]).tobytes())
        self._blocks.append(len(pairs))
        self.frequencies = np.pad(self.frequencies, (0, len(self.vocabulary) - len(self.frequencies)))
        self.frequencies += np.bincount(terms, minlength=len(self.vocabulary))
        self._words, self._first = array("i"), len(self.lengths)

    def by_term(self, weigh: Callable[[Ints, Ints, Ints], Floats]) -> tuple[Floats, Ints, Longs]:
        """Turn the postings around, block by block.

        Args:
            weigh: Terms, documents and counts of postings -> their weights.

        Returns:
            Weights and documents, shape (postings,), memory-mapped in the folder, the documents of each term in
            ascending order; and where each term's begin, shape (terms + 1,): the parts of a matrix by columns.
        """
        starts = np.concatenate([[0], np.cumsum(self.frequencies)]).astype(np.int64)
        weights: Floats = np.memmap(self._folder / "weights", np.float32, "w+", shape=(int(starts[-1]),))
        indices: Ints = np.memmap(self._folder / "documents", np.int32, "w+", shape=(int(starts[-1]),))
        following = starts[:-1].copy()
        self._file.seek(0)
        for size in self._blocks:
            docs, terms, counts = np.frombuffer(self._file.read(12 * size), dtype=np.int32).reshape(3, size)
            order = np.argsort(terms, kind="stable")
            docs, terms, counts = docs[order], terms[order], counts[order]
            each = np.bincount(terms, minlength=len(following))
            before = (np.cumsum(each) - each)[terms]  # postings of lower terms in this block
            places = following[terms] + np.arange(size) - before
            weights[places] = weigh(terms, docs, counts)
            indices[places] = docs
            following += each
        return weights, indices, starts
