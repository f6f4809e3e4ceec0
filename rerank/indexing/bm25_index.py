"""A memory-mapped BM25 index of bm25s on disk, and the selection of top documents with exact tie-breaking."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rerank.errors import DataError
from rerank.indexing.postings import Bm25Weights, CollectionStatistics, Postings, SavedPostings
from rerank.io.forked_processes import run_in_forked_processes
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
    so that the weights of a document do not depend on the number of shards.

    Args:
        folder: Folder for the index files, in the format of bm25s; arrays are saved without pickles.
        shards: For each shard, the terms of its documents, in the order of the collection.
        options: The options ``k1``, ``b`` and ``method`` of bm25s.
        processes: Maximum number of processes.
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
                _write_index_shard(folder, number, parts[number], statistics, options)
                shutil.rmtree(parts[number])

        run_in_forked_processes(invert, len(shards), processes)


def _write_index_shard(
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
    index.save(folder, allow_pickle=False, **_file_names_of_index_shard(number))


def _file_names_of_index_shard(number: int) -> dict[str, str]:
    """Return the arguments of bm25s that set the file names of a shard; the first shard has the default names."""
    prefix = f"{number:05d}." if number else ""
    names = {"data": "data.csc", "indices": "indices.csc", "indptr": "indptr.csc"}
    return {f"{part}_name": f"{prefix}{name}.index.npy" for part, name in names.items()} | {
        "vocab_name": f"{prefix}vocab.index.json",
        "params_name": f"{prefix}{_PARAMETERS}",
    }


class InvertedIndex:
    """A memory-mapped index of one or several shards.

    Attributes:
        shards: The index of each shard, as an object of bm25s.
        vocabulary: Mapping from term to its column in the matrix of weights.
        starts: Position of the first document of each shard, followed by the number of all documents.
    """

    def __init__(self, folder: Path, documents: int) -> None:
        """Open the files that `write_inverted_index` wrote."""
        import bm25s

        self.shards = [
            bm25s.BM25.load(folder, mmap=True, allow_pickle=False, **_file_names_of_index_shard(number))
            for number in range(len(list(folder.glob(f"*{_PARAMETERS}"))))
        ]
        self.vocabulary: Mapping[str, int] = self.shards[0].vocab_dict
        sizes = [shard.scores["num_docs"] for shard in self.shards]
        columns = {len(shard.scores["indptr"]) - 1 for shard in self.shards}
        if sum(sizes) != documents or columns != {len(self.vocabulary)}:
            raise ValueError("its files do not match each other")
        self.starts: list[int] = [0, *accumulate(sizes)]

    def document_frequency(self, term: str) -> int:
        """Return the number of documents that contain a term."""
        if (column := self.vocabulary.get(term)) is None:
            return 0
        starts = (shard.scores["indptr"] for shard in self.shards)
        return sum(int(start[column + 1] - start[column]) for start in starts)

    def top(
        self, terms: Sequence[str], weights: Mapping[str, float] | None, id_ranks: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return positions and scores of up to ``k`` documents with the highest scores above zero, best first.

        Args:
            terms: The terms of the query; terms that occur in no document are ignored.
            weights: Mapping from term to weight in the query; None to weight each term by its number of occurrences.
            id_ranks: Rank of each document's id among all ids in ascending order, for ties, shape (documents,).
            k: Maximum number of documents, at least 1.
        """
        known = [self.vocabulary[term] for term in terms if term in self.vocabulary]
        if not known:
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
    """Return, for each document, the sum over terms of the weight in the query times the BM25 weight in the document.

    Args:
        index: One shard.
        vocabulary: Mapping from term to its column in the matrix of weights.
        weights: Mapping from term to weight in the query; terms that occur in no document are ignored.

    Returns:
        The scores, shape (documents,).
    """
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
    sorts all documents with that score.

    Args:
        scores: Scores of the documents, shape (documents,).
        id_ranks: Rank of each document's id among all ids in ascending order, for ties, shape (documents,).
        k: Maximum number of documents, at least 1.
    """
    positions = np.flatnonzero(scores > 0)
    if len(positions) > k:
        positive = scores[positions]
        kth_score = np.partition(positive, len(positive) - k)[len(positive) - k]
        positions = positions[positive >= kth_score]  # k documents, and all that tie with the k-th
    # the last key is the primary one: by score, then by id, both descending
    order = np.lexsort((-id_ranks[positions], -scores[positions]))
    return positions[order[:k]]
