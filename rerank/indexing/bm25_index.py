"""A BM25 index of bm25s on disk, memory-mapped, and the exact top of a query's scores under the tie rule.

Knows terms and positions, not where documents come from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rerank.errors import DataError
from rerank.indexing.postings import Postings, Weights
from rerank.io.sealed_folders import storing

if TYPE_CHECKING:
    import bm25s

Floats = NDArray[np.float32]


def write_index(folder: Path, documents: Iterable[list[str]], options: Mapping[str, Any]) -> None:
    """Index documents given as lists of terms.

    Args:
        folder: Where to write; bm25s' own files, arrays without pickles.
        documents: The terms of each, in the order of the collection.
        options: bm25s' ``k1``, ``b`` and ``method``.

    Raises:
        DataError: No document has any term.
        StorageError: The disk did not take it.
    """
    import bm25s

    with storing(folder), tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as aside:
        with Postings(Path(aside)) as postings:
            for terms in documents:
                postings.add(terms)
            postings.finish()
            if not postings.vocabulary:
                raise DataError(
                    f"None of the {len(postings.lengths)} documents has a word to index",
                    expected="text",
                    remedy="Check the collection's files and the option 'fields'",
                )
            weight = Weights.of(postings, **options)
            data, indices, indptr = postings.by_term(weight)
        index = bm25s.BM25(**options)
        index.scores = {"data": data, "indices": indices, "indptr": indptr, "num_docs": len(postings.lengths)}
        index.vocab_dict = postings.vocabulary
        index.nonoccurrence_array = None  # of formulas that we do not offer
        index.save(folder, allow_pickle=False)


def read_index(folder: Path, documents: int) -> bm25s.BM25:
    """Map an index that `write_index` made.

    Raises:
        ValueError: It is not one over this many documents.
    """
    import bm25s

    index = bm25s.BM25.load(folder, mmap=True, allow_pickle=False)
    if index.scores["num_docs"] != documents or len(index.scores["indptr"]) != len(index.vocab_dict) + 1:
        raise ValueError("its files do not fit together")
    return index


def best(scores: Floats, id_ranks: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Positions of the ``k`` best scores above zero, best first; equal scores by document id, descending.

    bm25s' own selection cuts ties at the k-th score in arbitrary order, so the whole tie is looked at here.

    Args:
        scores: Shape (documents,).
        id_ranks: Shape (documents,): place of each document's id in ascending order.
        k: At least 1.
    """
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        kept = scores[found]
        found = found[kept >= np.partition(kept, len(kept) - k)[len(kept) - k]]
    order = np.lexsort((-id_ranks[found], -scores[found]))
    return found[order[:k]]
