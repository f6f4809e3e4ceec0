"""Search with documents whose picture has no embedding: their positions are saved, and they are ranked last.

The row of such a document in the embedding matrix contains only zeros.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rerank.indexing.text_encoder import Floats
from rerank.indexing.vector_index import Positions, Searcher
from rerank.io.sealed_folders import storage_errors

#: Score of documents without a vector, below every cosine.
BELOW = np.float32(-2.0)
#: Number of rows that are checked at a time.
_CHUNK = 50_000


def save_retriever_documents_without_vector(matrix: Floats, path: Path) -> None:
    """Save the positions of the rows of the embedding matrix that contain only zeros, in ascending order."""
    parts = [
        np.flatnonzero(~matrix[start : start + _CHUNK].any(axis=1)) + start for start in range(0, len(matrix), _CHUNK)
    ]
    with storage_errors(path.parent):
        np.save(path, np.concatenate(parts).astype(np.int64), allow_pickle=False)


def read_documents_without_vector(path: Path, documents: int) -> Positions:
    """Load the positions that `save_retriever_documents_without_vector` saved."""
    positions: Positions = np.load(path, allow_pickle=False)
    valid = positions.ndim == 1 and positions.dtype == np.int64
    if not valid or (len(positions) and not 0 <= positions[0] <= positions[-1] < documents):
        raise ValueError(f"{path.name} does not contain valid positions in a collection of {documents} documents")
    return positions


def retrieve_documents_without_vector_last(search: Searcher, unseen: Positions, documents: int) -> Searcher:
    """Wrap a search function so that documents without a vector come last, all with the same score below all cosines.

    Args:
        search: Search function of the index, which returns documents without a vector with a cosine of 0, or omits
            them.
        unseen: Positions of the documents without a vector, in ascending order.
        documents: Number of documents in the collection.
    """
    if not len(unseen):
        return search

    def search_all(queries: Floats, depth: int) -> tuple[Floats, Positions]:
        scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        positions = np.full((len(queries), depth), -1, dtype=np.int64)
        needed, below = min(depth, documents - len(unseen)), np.full(len(unseen), BELOW, dtype=np.float32)
        for index, (row, hits) in enumerate(zip(*search(queries, depth), strict=True)):
            while (
                len(hits) < documents and _retrieved_documents_with_vector(hits, unseen).sum() < needed
            ):  # search deeper, for this query only
                (row,), (hits,) = search(queries[index][None], min(documents, 2 * len(hits)))
            seen = _retrieved_documents_with_vector(hits, unseen)
            top_scores, top = np.concatenate([row[seen], below])[:depth], np.concatenate([hits[seen], unseen])[:depth]
            scores[index, : len(top_scores)], positions[index, : len(top)] = top_scores, top
        return scores, positions

    return search_all


def _retrieved_documents_with_vector(positions: Positions, unseen: Positions) -> NDArray[np.bool_]:
    return (positions >= 0) & ~np.isin(positions, unseen)
