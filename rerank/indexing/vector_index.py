"""Vectors -> the nearest ones, with faiss: exactly, through a graph (HNSW) or through cells and codes (IVF-PQ).

All by inner product, which for vectors of length 1 is the cosine. Knows vectors and positions, no text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rerank.errors import UsageError
from rerank.indexing.text_encoder import Floats
from rerank.io.sealed_folders import storing

Positions = NDArray[np.int64]
#: Queries (count, size) and a depth -> scores and positions, both (count, depth), best first; -1 where there is none.
Searcher = Callable[[Floats, int], tuple[Floats, Positions]]

_FILE = "index.faiss"
#: Queries searched together. From 20 on faiss turns to matrix products, whose last digits depend on the company.
_GROUP = 16
#: Vectors added at a time, and most vectors that cells and codes are learned from, for each cell.
_CHUNK, _FOR_EACH_CELL = 50_000, 128
_SEED = 0
#: Values of a byte, each of which stands for a learned centre.
_CENTRES = 256


class Kind(Protocol):
    """A kind of index with its settings."""

    @property
    def made_with(self) -> Mapping[str, int | str]:
        """What the saved files depend on besides the vectors; what only a search depends on is left out."""

    def write(self, matrix: Floats, folder: Path) -> None:
        """Build it over vectors (rows) and save it."""

    def read(self, matrix: Floats, folder: Path) -> Searcher:
        """Open what `write` saved; ValueError if it is not over these vectors."""


@dataclass(frozen=True, slots=True)
class Flat:
    """Every vector is compared, in the mapped file itself; nothing else is saved."""

    @property
    def made_with(self) -> Mapping[str, int | str]:
        """Nothing."""
        return {}

    def write(self, matrix: Floats, folder: Path) -> None:
        """Write nothing."""

    def read(self, matrix: Floats, folder: Path) -> Searcher:
        """Search the matrix as it lies."""
        return lambda queries, depth: _faiss().knn(queries, matrix, depth, metric=_faiss().METRIC_INNER_PRODUCT)


@dataclass(frozen=True, slots=True)
class Hnsw:
    """A graph of near neighbours in layers (Malkov and Yashunin, TPAMI 2020). Holds a copy of the vectors.

    Attributes:
        m: Links of a vector in each layer (twice as many in the lowest).
        ef_construction: Candidates looked at when a vector is linked.
        ef_search: Candidates looked at in a search, or the depth of the list where that is more.
    """

    m: int
    ef_construction: int
    ef_search: int

    @property
    def made_with(self) -> Mapping[str, int | str]:
        """How the graph is linked."""
        return {"m": self.m, "ef_construction": self.ef_construction, "faiss": str(_faiss().__version__)}

    def write(self, matrix: Floats, folder: Path) -> None:
        """Build the graph."""
        index = _faiss().IndexHNSWFlat(matrix.shape[1], self.m, _faiss().METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        _fill(index, matrix, folder)

    def read(self, matrix: Floats, folder: Path) -> Searcher:
        """Map the graph."""
        index = _read(matrix, folder, "IO_FLAG_MMAP_IFC")
        parameters = _faiss().SearchParametersHNSW(efSearch=self.ef_search)
        return lambda queries, depth: index.search(queries, depth, params=parameters)


@dataclass(frozen=True, slots=True)
class IvfPq:
    """Cells of near vectors, and a code of a few bytes for each vector (Jegou et al., TPAMI 2011).

    Attributes:
        nlist: Cells; 0 for four times the square root of the documents, at most one for 39 of them.
        m: Bytes of a code; it must divide the dimensions. 0 for a quarter of them or the next smaller divisor.
        nprobe: Cells that a search looks into.
        rescore: Candidates whose scores are computed anew from the saved embeddings; 0 leaves the codes' estimates.
    """

    nlist: int
    m: int
    nprobe: int
    rescore: int

    @property
    def made_with(self) -> Mapping[str, int | str]:
        """How vectors are coded."""
        return {"nlist": self.nlist, "m": self.m, "faiss": str(_faiss().__version__)}

    def write(self, matrix: Floats, folder: Path) -> None:
        """Learn cells and codes from a fixed sample and code every vector.

        Raises:
            UsageError: There are too few documents, or ``m`` does not divide the dimensions.
        """
        documents, size = matrix.shape
        nlist = self.nlist or max(1, min(round(4 * documents**0.5), documents // 39))
        if documents < max(_CENTRES, nlist):
            raise UsageError(
                f"An IVF-PQ index with {nlist} cells over {documents} documents",
                expected=f"at least {max(_CENTRES, nlist)} documents, to learn cells and codes from",
                remedy="Use index=flat, which is fast for so few",
            )
        m = self.m or next(part for part in range(max(1, size // 4), 0, -1) if size % part == 0)
        if size % m:
            raise UsageError(f"IVF-PQ codes of {m} bytes for {size} dimensions", expected=f"a divisor of {size}")
        index = _faiss().IndexIVFPQ(_faiss().IndexFlatIP(size), size, nlist, m, 8, _faiss().METRIC_INNER_PRODUCT)
        for learning in (index.cp, index.pq.cp):
            learning.min_points_per_centroid = 1  # else faiss warns on stdout about small collections
        index.train(_sample(matrix, max(nlist, _CENTRES) * _FOR_EACH_CELL))
        _fill(index, matrix, folder)

    def read(self, matrix: Floats, folder: Path) -> Searcher:
        """Map cells and codes."""
        index = _read(matrix, folder, "IO_FLAG_MMAP")
        parameters = _faiss().SearchParametersIVF(nprobe=min(self.nprobe, index.nlist))

        def search(queries: Floats, depth: int) -> tuple[Floats, Positions]:
            wide = min(len(matrix), max(depth, self.rescore))
            scores, positions = index.search(queries, wide, params=parameters)
            if self.rescore:
                scores, positions = _rescored(queries, matrix, positions)
            return scores[:, :depth], positions[:, :depth]

        return search


def nearest(search: Searcher, queries: Floats, k: int, id_ranks: Positions) -> Iterator[tuple[Positions, Floats]]:
    """Positions and scores of the ``k`` nearest vectors of each query, best first.

    Equal scores stand by document id, descending, also where the k-th place cuts through them: the search goes deeper
    until it sees the end of the tie.

    Args:
        search: An open index.
        queries: Shape (queries, size).
        k: At least 1.
        id_ranks: Shape (documents,): place of each document's id in ascending order.
    """
    for start in range(0, len(queries), _GROUP):
        group = queries[start : start + _GROUP]
        scores, positions = search(group, min(len(id_ranks), k + 1))
        for query, row, at in zip(group, scores, positions, strict=True):
            while k < len(row) < len(id_ranks) and row[k - 1] == row[-1] and at[-1] >= 0:  # alone, not the whole group
                (row,), (at,) = search(query[None], min(len(id_ranks), 2 * len(row)))
            row, at = row[at >= 0], at[at >= 0]
            order = np.lexsort((-id_ranks[at], -row))[:k]
            yield at[order], row[order]


def _rescored(queries: Floats, matrix: Floats, positions: Positions) -> tuple[Floats, Positions]:
    """Inner products from the vectors themselves, best first; missing ones stay last."""
    # A product summed row by row: equal vectors get equal scores, which a matrix product does not promise.
    scores = np.stack([(matrix[at] * query).sum(axis=1) for query, at in zip(queries, positions, strict=True)])
    scores[positions < 0] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)


def _sample(matrix: Floats, size: int) -> Floats:
    """At most ``size`` rows, the same ones each time."""
    if len(matrix) <= size:
        return matrix
    return matrix[np.sort(np.random.default_rng(_SEED).choice(len(matrix), size, replace=False))]


def _faiss() -> Any:
    """The library. Its type stubs lack some of what it has, and it may not be installed."""
    import faiss

    return faiss


def _fill(index: Any, matrix: Floats, folder: Path) -> None:
    for start in range(0, len(matrix), _CHUNK):
        index.add(matrix[start : start + _CHUNK])
    try:
        _faiss().write_index(index, str(folder / _FILE))
    except RuntimeError as error:  # faiss' own for a disk that is full or cannot be written
        with storing(folder):
            raise OSError(str(error).splitlines()[0]) from error


def _read(matrix: Floats, folder: Path, flag: str) -> Any:
    """Open an index; ``flag`` is faiss' name for the way of mapping that suits it, which older versions may lack."""
    try:
        index = _faiss().read_index(str(folder / _FILE), getattr(_faiss(), flag, _faiss().IO_FLAG_MMAP))
    except RuntimeError as error:
        raise ValueError(f"{_FILE} is not read by faiss: {error}") from error
    if (index.ntotal, index.d) != matrix.shape:
        raise ValueError(f"{_FILE} holds {index.ntotal} vectors of {index.d} instead of {matrix.shape}")
    return index
