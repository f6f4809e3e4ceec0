"""Nearest neighbours by inner product with faiss: exact, with a graph (HNSW), or by product quantization (IVF-PQ)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank.errors import UsageError
from rerank.indexing.documents import even_document_ranges
from rerank.io.sealed_folders import storage_errors

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]
#: A search function. It takes queries, shape (queries, size), and a depth, and returns scores and positions, both of
#: shape (queries, depth), best first. If there are fewer results, the remaining positions are -1.
Searcher = Callable[[Floats, int], tuple[Floats, Positions]]

_FILE = "index.faiss"
#: Number of queries in one call of faiss. For 20 or more queries, faiss uses matrix products, in which the last digits
#: of a score depend on the other queries.
_GROUP = 16
#: Number of queries searched together; their results are in memory at the same time.
_BATCH = 1024
#: Number of vectors added at a time, and the maximum number of training vectors per cell.
_CHUNK, _FOR_EACH_CELL = 50_000, 128
_SEED = 0
#: Number of centroids that a one-byte code can distinguish.
_CENTRES = 256


@dataclass(frozen=True, slots=True)
class FlatIndex:
    """Exact search over all vectors in the memory-mapped matrix, without index files.

    The matrix is searched shard by shard, each with all queries, so that a matrix that is larger than the memory is
    read once instead of once for every few queries.
    """

    shard_documents: int  # maximum number of vectors in a shard

    @property
    def made_with(self) -> Mapping[str, int | str]:
        return {}

    def write(self, matrix: Floats, folder: Path) -> None:
        """Do nothing, since the matrix itself is searched."""

    def read(self, matrix: Floats, folder: Path) -> Searcher:
        def search(queries: Floats, depth: int) -> tuple[Floats, Positions]:
            scores, positions = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
            for start, end in even_document_ranges(len(matrix), self.shard_documents):
                found_scores, found = _search_flat_shard(queries, matrix[start:end], depth)
                scores, positions = (
                    np.hstack([scores, found_scores]),
                    np.hstack([positions, np.where(found < 0, -1, found + start)]),
                )
                best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
                scores, positions = np.take_along_axis(scores, best, 1), np.take_along_axis(positions, best, 1)
            return scores, positions

        return search


def _search_flat_shard(queries: Floats, shard: Floats, depth: int) -> tuple[Floats, Positions]:
    faiss = _import_faiss()
    search = _search_in_groups(lambda group, k: faiss.knn(group, shard, k, metric=faiss.METRIC_INNER_PRODUCT))
    return search(queries, min(depth, len(shard)))


def _search_in_groups(search: Searcher) -> Searcher:
    """Return a search function that calls ``search`` with at most `_GROUP` queries at a time."""

    def search_groups(queries: Floats, depth: int) -> tuple[Floats, Positions]:
        groups = [search(queries[start : start + _GROUP], depth) for start in range(0, len(queries), _GROUP)]
        scores, positions = zip(*groups, strict=True)
        return np.concatenate(scores), np.concatenate(positions)

    return search_groups


@dataclass(frozen=True, slots=True)
class HnswIndex:
    """A layered graph of near neighbours (Malkov and Yashunin, TPAMI 2020). It contains a copy of the vectors."""

    m: int  # number of links per vector and layer; in the lowest layer, twice as many
    ef_construction: int  # number of candidates considered when a vector is linked
    ef_search: int  # number of candidates considered in a search; faiss considers at least as many as the search depth

    @property
    def made_with(self) -> Mapping[str, int | str]:
        return {"m": self.m, "ef_construction": self.ef_construction, "faiss": str(_import_faiss().__version__)}

    def write(self, matrix: Floats, folder: Path) -> None:
        index = _import_faiss().IndexHNSWFlat(matrix.shape[1], self.m, _import_faiss().METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.ef_construction
        _fill(index, matrix, folder)

    def read(self, matrix: Floats, folder: Path) -> Searcher:
        index = _read(matrix, folder, "IO_FLAG_MMAP_IFC")
        parameters = _import_faiss().SearchParametersHNSW(efSearch=self.ef_search)
        return _search_in_groups(lambda queries, depth: index.search(queries, depth, params=parameters))


@dataclass(frozen=True, slots=True)
class IvfPqIndex:
    """An inverted file of cells of near vectors, each stored as a code of a few bytes (Jegou et al., TPAMI 2011)."""

    nlist: int  # number of cells; 0 for four times the square root of the number of documents n, but at most n / 39
    #: Number of bytes per code, which must divide the dimension; 0 for the largest divisor of the dimension up to a
    #: quarter of it.
    m: int
    nprobe: int  # number of cells visited in a search
    rescore: int  # number of candidates rescored with the saved embeddings; 0 to keep the scores of the codes

    @property
    def made_with(self) -> Mapping[str, int | str]:
        return {"nlist": self.nlist, "m": self.m, "faiss": str(_import_faiss().__version__)}

    def write(self, matrix: Floats, folder: Path) -> None:
        """Train the IVF-PQ index (cells and codes) on a fixed sample of the vectors, add all vectors, and save it."""
        documents, size = matrix.shape
        nlist = self.nlist or max(1, min(round(4 * documents**0.5), documents // 39))
        if documents < max(_CENTRES, nlist):
            raise UsageError(
                f"An IVF-PQ index with {nlist} cells cannot be built over {documents} documents",
                expected=f"at least {max(_CENTRES, nlist)} documents, from which cells and codes are learned",
                remedy="Use index=flat, which is fast for a collection of this size",
            )
        m = self.m or next(part for part in range(max(1, size // 4), 0, -1) if size % part == 0)
        if size % m:
            raise UsageError(
                f"IVF-PQ codes of {m} bytes do not suit vectors of {size} dimensions", expected=f"a divisor of {size}"
            )
        index = _import_faiss().IndexIVFPQ(
            _import_faiss().IndexFlatIP(size), size, nlist, m, 8, _import_faiss().METRIC_INNER_PRODUCT
        )
        for learning in (index.cp, index.pq.cp):
            learning.min_points_per_centroid = 1  # otherwise faiss warns on stdout about small collections
        sample, most = matrix, max(nlist, _CENTRES) * _FOR_EACH_CELL
        if documents > most:
            sample = matrix[np.sort(np.random.default_rng(_SEED).choice(documents, most, replace=False))]
        index.train(sample)
        _fill(index, matrix, folder)

    def read(self, matrix: Floats, folder: Path) -> Searcher:
        index = _read(matrix, folder, "IO_FLAG_MMAP")
        parameters = _import_faiss().SearchParametersIVF(nprobe=min(self.nprobe, index.nlist))

        def search(queries: Floats, depth: int) -> tuple[Floats, Positions]:
            scores, positions = index.search(queries, min(len(matrix), max(depth, self.rescore)), params=parameters)
            if self.rescore:
                scores, positions = _rescore(queries, matrix, positions)
            return scores[:, :depth], positions[:, :depth]

        return _search_in_groups(search)


#: The types of vector index. Each has ``made_with``, the settings on which the saved files depend (without those that
#: only affect searching), and the methods ``write``, which builds the index over the (documents, size) vectors and
#: saves it, and ``read``, which opens it.
VectorIndex = FlatIndex | HnswIndex | IvfPqIndex


def nearest_vectors(
    search: Searcher, queries: Floats, k: int, id_ranks: Positions
) -> Iterator[tuple[Positions, Floats]]:
    """Yield positions and scores of the ``k`` nearest vectors of each of (queries, size) queries, best first.

    Ties are broken by document id, descending; the (documents,) ``id_ranks`` are ranks in ascending order. If a tie
    spans rank k, the search is repeated with a larger depth until the results contain all tied vectors.
    """
    for start in range(0, len(queries), _BATCH):
        batch = queries[start : start + _BATCH]
        all_scores, all_positions = search(batch, min(len(id_ranks), k + 1))
        for query, scores, positions in zip(batch, all_scores, all_positions, strict=True):
            # search again for this query only, not for the whole batch
            while k < len(scores) < len(id_ranks) and scores[k - 1] == scores[-1] and positions[-1] >= 0:
                (scores,), (positions,) = search(query[None], min(len(id_ranks), 2 * len(scores)))
            scores, positions = scores[positions >= 0], positions[positions >= 0]
            order = np.lexsort((-id_ranks[positions], -scores))[:k]
            yield positions[order], scores[order]


def _rescore(queries: Floats, matrix: Floats, positions: Positions) -> tuple[Floats, Positions]:
    """Rescore candidates with their full vectors; return scores and positions, best first, missing ones (-1) last."""
    # Each row is summed separately, so that equal vectors have equal scores, which a matrix product does not guarantee.
    scores = np.stack([(matrix[row] * query).sum(axis=1) for query, row in zip(queries, positions, strict=True)])
    scores[positions < 0] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)


def _import_faiss() -> Any:
    """Return the module faiss, untyped: its stubs are incomplete, and it may not be installed."""
    import faiss

    return faiss


def _fill(index: Any, matrix: Floats, folder: Path) -> None:
    for start in range(0, len(matrix), _CHUNK):
        index.add(matrix[start : start + _CHUNK])
    try:
        _import_faiss().write_index(index, str(folder / _FILE))
    except RuntimeError as error:  # faiss raises it if the disk is full or read-only
        with storage_errors(folder):
            raise OSError(str(error).splitlines()[0]) from error


def _read(matrix: Floats, folder: Path, flag: str) -> Any:
    """Open an index; ``flag`` is the name of the faiss flag for memory-mapping it, which older versions may lack."""
    try:
        index = _import_faiss().read_index(
            str(folder / _FILE), getattr(_import_faiss(), flag, _import_faiss().IO_FLAG_MMAP)
        )
    except RuntimeError as error:
        raise ValueError(f"faiss cannot read {_FILE}: {error}") from error
    if (index.ntotal, index.d) != matrix.shape:
        raise ValueError(
            f"{_FILE} has the shape {(index.ntotal, index.d)}, but the matrix has the shape {matrix.shape}"
        )
    return index
