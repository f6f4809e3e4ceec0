"""A memory-mapped BM25 index of bm25s on disk, and the selection of top documents with exact tie-breaking."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rerank.errors import DataError
from rerank.io.forks import run_in_forked_processes
from rerank.io.sealed_folders import storage_errors

if TYPE_CHECKING:
    import bm25s

Floats = NDArray[np.float32]

_AVERAGE, _PARAMETERS = "average_length.json", "params.index.json"


def write_inverted_index(
    folder: Path, shards: Sequence[Iterable[list[str]]], options: Mapping[str, Any], *, processes: int = 1
) -> None:
    """Write a BM25 index of documents, given as lists of terms, in shards that are built in parallel.

    Weights depend on the whole collection: document frequencies and lengths are counted before any weight is computed,
    so that the weights of a document do not depend on the number of shards. The files have the format of bm25s; arrays
    are saved without pickles.
    """
    with storage_errors(folder), tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as scratch:
        parts = [Path(scratch) / str(number) for number in range(len(shards))]

        def collect(number: int) -> None:
            with storage_errors(folder):
                parts[number].mkdir()
                with Postings(parts[number]) as postings:
                    for terms in shards[number]:
                        postings.add(terms)
                    postings.finish()

        run_in_forked_processes(collect, len(shards), processes)
        statistics = CollectionStatistics.of_shards(parts)
        if not statistics.vocabulary:
            raise DataError(
                f"None of the {statistics.documents} documents has a word to index",
                expected="at least one document with text",
                remedy="Check the collection's files and the option 'fields'",
            )

        def invert(number: int) -> None:
            with storage_errors(folder):
                _write_shard(folder, number, parts[number], statistics, options)
                shutil.rmtree(parts[number])

        run_in_forked_processes(invert, len(shards), processes)


def _write_shard(
    folder: Path, number: int, part: Path, statistics: CollectionStatistics, options: Mapping[str, Any]
) -> None:
    """Write the BM25 weights of one shard, one column per term of the collection; the first also saves the terms."""
    import bm25s

    postings = SavedPostings(part)
    weights = Bm25Weights.from_statistics(statistics, postings.lengths, **options)
    data, indices, indptr = postings.by_term(statistics.vocabulary, weights)
    index = bm25s.BM25(**options)
    # a sparse matrix, shape (documents, terms), compressed by column: weights, documents, start of each term's weights
    index.scores = {"data": data, "indices": indices, "indptr": indptr, "num_docs": len(postings.lengths)}
    index.vocab_dict = {} if number else statistics.vocabulary
    index.nonoccurrence_array = None  # only used by BM25 variants that we do not offer
    index.save(folder, allow_pickle=False, **_shard_file_names(number))


def _shard_file_names(number: int) -> dict[str, str]:
    """Return the arguments of bm25s that set the file names of a shard; the first shard has the default names."""
    prefix = f"{number:05d}." if number else ""
    return {f"{part}_name": f"{prefix}{part}.csc.index.npy" for part in ("data", "indices", "indptr")} | {
        "vocab_name": f"{prefix}vocab.index.json",
        "params_name": f"{prefix}{_PARAMETERS}",
    }


class InvertedIndex:
    """A memory-mapped index of one or several shards."""

    def __init__(self, folder: Path, documents: int) -> None:
        import bm25s

        self.shards = [
            bm25s.BM25.load(folder, mmap=True, allow_pickle=False, **_shard_file_names(number))
            for number in range(len(list(folder.glob(f"*{_PARAMETERS}"))))
        ]
        self.vocabulary: Mapping[str, int] = self.shards[0].vocab_dict
        sizes = [shard.scores["num_docs"] for shard in self.shards]
        columns = {len(shard.scores["indptr"]) - 1 for shard in self.shards}
        if sum(sizes) != documents or columns != {len(self.vocabulary)}:
            raise ValueError("its files do not match each other")
        self.starts: list[int] = [0, *accumulate(sizes)]

    def document_frequency(self, term: str) -> int:
        if (column := self.vocabulary.get(term)) is None:
            return 0
        starts = (shard.scores["indptr"] for shard in self.shards)
        return sum(int(start[column + 1] - start[column]) for start in starts)

    def top(
        self, terms: Sequence[str], weights: Mapping[str, float] | None, id_ranks: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return positions and scores of up to ``k`` documents with the highest scores above zero, best first.

        Terms that occur in no document are ignored. Without ``weights``, a term weighs its number of occurrences. For
        ties, the (documents,) ``id_ranks`` are the ranks of the documents' ids among all ids in ascending order.
        """
        if not (known := [self.vocabulary[term] for term in terms if term in self.vocabulary]):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        found, found_scores = [], []
        for start, end, shard in zip(self.starts, self.starts[1:], self.shards, strict=False):
            scores = (
                shard.get_scores_from_ids(known)
                if weights is None
                else weighted_document_scores(shard, self.vocabulary, weights)
            )
            positions = top_positions_of_scores(scores, id_ranks[start:end], k)
            found.append(positions + start)
            found_scores.append(scores[positions])
        positions, scores = np.concatenate(found), np.concatenate(found_scores)
        # the k best documents of the collection are among the k best documents of each shard
        best = top_positions_of_scores(scores, id_ranks[positions], k)
        return positions[best], scores[best]


def weighted_document_scores(index: bm25s.BM25, vocabulary: Mapping[str, int], weights: Mapping[str, float]) -> Floats:
    """Return (documents,) sums over terms of query weight times BM25 weight; unknown terms are ignored."""
    starts, documents, values = (index.scores[name] for name in ("indptr", "indices", "data"))
    scores = np.zeros(index.scores["num_docs"], dtype=np.float32)
    for term, weight in weights.items():
        if (column := vocabulary.get(term)) is not None:
            part = slice(starts[column], starts[column + 1])
            scores[documents[part]] += np.float32(weight) * values[part]
    return scores


def write_average_length(folder: Path, documents: Iterable[list[str]]) -> None:
    """Write the average number of terms per document, without empty documents; documents are lists of terms."""
    count = total = 0
    for terms in documents:
        count, total = count + bool(terms), total + len(terms)
    with storage_errors(folder):
        (folder / _AVERAGE).write_text(json.dumps(total / max(1, count)), encoding="utf-8")


def read_average_length(folder: Path) -> float:
    """Return the average length that `write_average_length` wrote."""
    length = float(json.loads((folder / _AVERAGE).read_text(encoding="utf-8")))
    if not length > 0:
        raise ValueError(f"the average length is {length}")
    return length


def top_positions_of_scores(scores: Floats, id_ranks: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the positions of the ``k`` highest scores above zero, best first; ties by document id, descending.

    The selection of bm25s keeps an arbitrary subset of the documents that tie at the k-th score, whereas this function
    sorts all documents with that score. ``scores`` and ``id_ranks`` (rank of each document's id among all ids in
    ascending order) have shape (documents,).
    """
    positions = np.flatnonzero(scores > 0)
    if len(positions) > k:
        positive = scores[positions]
        kth_score = np.partition(positive, len(positive) - k)[len(positive) - k]
        positions = positions[positive >= kth_score]  # k documents, and all that tie with the k-th
    # the last key is the primary one: by score, then by id, both descending
    return positions[np.lexsort((-id_ranks[positions], -scores[positions]))[:k]]


Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Doubles = NDArray[np.float64]

_BLOCKS, _SIZES, _LENGTHS, _FREQUENCIES, _TERMS = "blocks", "sizes.npy", "lengths.npy", "frequencies.npy", "terms.json"
#: Number of words that are collected before a block is written.
BLOCK = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bm25Weights:
    """BM25 weights of terms in documents, by the formulas of Kamphuis et al. (ECIR 2020), as implemented in bm25s."""

    idf: Floats  # inverse document frequencies, shape (terms,)
    norm: Doubles  # length norms of the documents, ``k1 * (1 - b + b * length / average length)``, shape (documents,)
    scale: float  # ``k1 + 1`` for ATIRE, 1 otherwise

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
        norm = k1 * ((1 - b) + b * lengths.astype(np.float64) / (statistics.words / total))
        if method == "lucene":
            idf = np.log(1 + (total - frequencies + 0.5) / (frequencies + 0.5))
        elif method == "robertson":
            idf = np.log(np.maximum((total - frequencies + 0.5) / (frequencies + 0.5), 1))
        else:
            idf = np.log(total / frequencies)
        return cls(idf=idf.astype(np.float32), norm=norm, scale=k1 + 1 if method == "atire" else 1.0)

    def __call__(self, terms: Ints, docs: Ints, counts: Ints) -> Floats:
        """Return the weights of postings, shape (postings,), from their terms, documents and term frequencies."""
        # idf(t) * tf * scale / (tf + k1 * (1 - b + b * |d| / avgdl))
        return (self.idf[terms] * (counts * self.scale / (counts + self.norm[docs]))).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollectionStatistics:
    """Counts over all shards of a collection, on which the weights in every shard depend."""

    documents: int
    words: int
    vocabulary: Mapping[str, int]  # mapping from term to term number, in order of first occurrence
    frequencies: Longs  # document frequency of each term, shape (terms,)

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

    ``frequencies``, the (terms,) document frequencies, are complete after `finish`.
    """

    def __init__(self, folder: Path) -> None:
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
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, terms: list[str]) -> None:
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
        """Count the words of the collected documents; append an int32 (3, postings) block: documents, terms, counts."""
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

    ``lengths`` are the (documents,) numbers of words, ``frequencies`` the (shard terms,) document frequencies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blocks, self.lengths, self.frequencies = (
            np.load(folder / name, allow_pickle=False) for name in (_SIZES, _LENGTHS, _FREQUENCIES)
        )

    def terms(self) -> list[str]:
        terms: list[str] = json.loads((self._folder / _TERMS).read_text(encoding="ascii"))
        return terms

    def by_term(
        self, vocabulary: Mapping[str, int], weigh: Callable[[Ints, Ints, Ints], Floats]
    ) -> tuple[Floats, Ints, Longs]:
        """Return the weighted postings sorted by term, after inverting them block by block.

        They are the arrays of a sparse matrix with one column per term of the collection, compressed by column. The
        weights and the documents have shape (postings,) and are memory-mapped in the folder; the documents of each term
        are in ascending order. The starts of the terms have shape (terms + 1,).
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


def saturated_weights(terms: Sequence[str], k3: float) -> dict[str, float]:
    """Return a mapping from each query term to its weight: its number of occurrences, saturated by ``k3``.

    The weight is (k3 + 1) qtf / (k3 + qtf), where qtf is the number of occurrences of the term in the query. It
    approaches qtf as ``k3`` grows. Sources: Robertson et al., Okapi at TREC-3, 1994, and Robertson and Zaragoza, The
    Probabilistic Relevance Framework: BM25 and Beyond, 2009.
    """
    return {term: (k3 + 1) * count / (k3 + count) for term, count in Counter(terms).items()}


def query_side_weights(
    terms: Sequence[str], idf: Callable[[str], float], *, k1: float, b: float, average_length: float
) -> dict[str, float]:
    """Return a mapping from each term to its BM25 weight in the query, treated as a document (query-side BM25).

    The weight is idf(t) qtf / (qtf + k1 (1 - b + b |q| / avgdl)), where qtf is the number of occurrences of the term in
    the query. Sources: Ge, Sharifymoghaddam and Lin, Lighting the Way for BRIGHT, 2025 (arXiv 2509.02558), and
    Anserini's QuerySideBm25QueryGenerator.
    """
    saturation = k1 * (1 - b + b * len(terms) / average_length)
    return {term: idf(term) * count / (count + saturation) for term, count in Counter(terms).items()}


def inverse_document_frequency(document_count: int, document_frequency: int) -> float:
    """Return Lucene's inverse document frequency of a term, which is never negative.

    For N documents, of which df contain the term, it is log(1 + (N - df + 0.5) / (df + 0.5)).
    """
    return math.log(1 + (document_count - document_frequency + 0.5) / (document_frequency + 0.5))
