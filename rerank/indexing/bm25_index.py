"""A memory-mapped BM25 index of bm25s on disk, and the selection of top documents with exact tie-breaking."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rerank.errors import DataError
from rerank.indexing.postings import Bm25Weights, Postings
from rerank.io.sealed_folders import storage_errors

if TYPE_CHECKING:
    import bm25s

Floats = NDArray[np.float32]

_AVERAGE = "average_length.json"


def write_inverted_index(folder: Path, documents: Iterable[list[str]], options: Mapping[str, Any]) -> None:
    """Index documents given as lists of terms.

    Args:
        folder: Folder for bm25s' own files; arrays are saved without pickles.
        documents: The terms of each document, in the order of the collection.
        options: bm25s' ``k1``, ``b`` and ``method``.

    Raises:
        DataError: No document has a term.
        StorageError: The index cannot be written.
    """
    import bm25s

    with storage_errors(folder), tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as scratch:
        with Postings(Path(scratch)) as postings:
            for terms in documents:
                postings.add(terms)
            postings.finish()
            if not postings.vocabulary:
                raise DataError(
                    f"None of the {len(postings.lengths)} documents has a word to index",
                    expected="at least one document with text",
                    remedy="Check the collection's files and the option 'fields'",
                )
            weights = Bm25Weights.from_postings(postings, **options)
            data, indices, indptr = postings.by_term(weights)
        index = bm25s.BM25(**options)
        # a sparse matrix (documents, terms), compressed by column: weights, documents, start of each term's weights
        index.scores = {"data": data, "indices": indices, "indptr": indptr, "num_docs": len(postings.lengths)}
        index.vocab_dict = postings.vocabulary
        index.nonoccurrence_array = None  # only used by BM25 variants that we do not offer
        index.save(folder, allow_pickle=False)


def read_inverted_index(folder: Path, documents: int) -> bm25s.BM25:
    """Memory-map an index written by `write_inverted_index`.

    Raises:
        ValueError: The index does not contain this many documents.
    """
    import bm25s

    index = bm25s.BM25.load(folder, mmap=True, allow_pickle=False)
    if index.scores["num_docs"] != documents or len(index.scores["indptr"]) != len(index.vocab_dict) + 1:
        raise ValueError("its files do not match each other")
    return index


def document_frequency_in_index(index: bm25s.BM25, term: str) -> int:
    """Return the number of documents with a term."""
    column = index.vocab_dict.get(term)
    starts = index.scores["indptr"]
    return 0 if column is None else int(starts[column + 1] - starts[column])


def weighted_document_scores(index: bm25s.BM25, weights: Mapping[str, float]) -> Floats:
    """Return the sum over terms of their weight in the query times their BM25 weight in each document.

    Args:
        index: The index.
        weights: Term -> weight in the query; terms that no document has are ignored.

    Returns:
        The scores, shape (documents,).
    """
    starts, documents, values = (index.scores[name] for name in ("indptr", "indices", "data"))
    scores = np.zeros(index.scores["num_docs"], dtype=np.float32)
    for term, weight in weights.items():
        if (column := index.vocab_dict.get(term)) is not None:
            part = slice(starts[column], starts[column + 1])
            scores[documents[part]] += np.float32(weight) * values[part]
    return scores


def write_average_length(folder: Path, documents: Iterable[list[str]]) -> None:
    """Write the average number of terms of those documents, given as lists of terms, that have any.

    Raises:
        StorageError: The file cannot be written.
    """
    count = total = 0
    for terms in documents:
        count, total = count + bool(terms), total + len(terms)
    with storage_errors(folder):
        (folder / _AVERAGE).write_text(json.dumps(total / max(1, count)), encoding="utf-8")


def read_average_length(folder: Path) -> float:
    """Read what `write_average_length` wrote.

    Raises:
        ValueError: It is not a number above 0.
    """
    length = float(json.loads((folder / _AVERAGE).read_text(encoding="utf-8")))
    if not length > 0:
        raise ValueError(f"the average length is {length}")
    return length


def top_positions_of_scores(scores: Floats, id_ranks: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the positions of the ``k`` highest scores above zero, best first; ties by document id, descending.

    bm25s' own selection keeps an arbitrary subset of the documents that tie at the k-th score, so this function sorts
    all documents with that score.

    Args:
        scores: Shape (documents,).
        id_ranks: Shape (documents,): rank of each document's id in ascending order.
        k: At least 1.
    """
    positions = np.flatnonzero(scores > 0)
    if len(positions) > k:
        positive = scores[positions]
        kth_score = np.partition(positive, len(positive) - k)[len(positive) - k]
        positions = positions[positive >= kth_score]  # k documents, and all that tie with the k-th
    # the last key is the primary one: by score, then by id, both descending
    order = np.lexsort((-id_ranks[positions], -scores[positions]))
    return positions[order[:k]]
