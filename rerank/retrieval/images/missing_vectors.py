"""Documents without a vector: found by their rows of zeros, kept, and put at the end of what a search finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rerank.indexing.text_encoder import Floats
from rerank.indexing.vector_index import Positions, Searcher
from rerank.io.sealed_folders import storing

#: Below every cosine.
BELOW = np.float32(-2.0)
#: Rows looked at together.
_CHUNK = 50_000


def save_unseen(matrix: Floats, path: Path) -> None:
    """Write the positions of the rows that are all zero, rising."""
    parts = [
        np.flatnonzero(~matrix[start : start + _CHUNK].any(axis=1)) + start for start in range(0, len(matrix), _CHUNK)
    ]
    with storing(path.parent):
        np.save(path, np.concatenate(parts).astype(np.int64), allow_pickle=False)


def read_unseen(path: Path, documents: int) -> Positions:
    """The positions that were written.

    Raises:
        ValueError: They are no positions of so many documents.
    """
    found: Positions = np.load(path, allow_pickle=False)
    if found.ndim != 1 or found.dtype != np.int64 or (len(found) and not 0 <= found[0] <= found[-1] < documents):
        raise ValueError(f"{path.name} holds no positions of {documents} documents")
    return found


def last(search: Searcher, unseen: Positions, documents: int) -> Searcher:
    """The same search with the documents without a vector behind all others, at one score below all cosines.

    Args:
        search: It finds them where a cosine of 0 puts them, or not at all.
        unseen: Their positions, rising.
        documents: How many documents there are.
    """
    if not len(unseen):
        return search

    def searched(queries: Floats, depth: int) -> tuple[Floats, Positions]:
        scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        positions = np.full((len(queries), depth), -1, dtype=np.int64)
        wanted, below = min(depth, documents - len(unseen)), np.full(len(unseen), BELOW, dtype=np.float32)
        for at, (row, found) in enumerate(zip(*search(queries, depth), strict=True)):
            while len(found) < documents and _seen(found, unseen).sum() < wanted:  # alone, not all queries
                (row,), (found,) = search(queries[at][None], min(documents, 2 * len(found)))
            kept = _seen(found, unseen)
            whole = np.concatenate([row[kept], below])[:depth], np.concatenate([found[kept], unseen])[:depth]
            scores[at, : len(whole[0])], positions[at, : len(whole[1])] = whole
        return scores, positions

    return searched


def _seen(positions: Positions, unseen: Positions) -> NDArray[np.bool_]:
    return (positions >= 0) & ~np.isin(positions, unseen)
