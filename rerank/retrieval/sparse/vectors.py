"""The sparse vectors of a corpus on disk: made in batches (`_batches`), kept by dimension, searched exactly.

What is kept are blocks of documents, each a matrix by columns: for every dimension, the documents of the block that
have it and their weights. A search reads the columns of the query's dimensions, one block after the other, so that its
memory does not grow with the collection. Knows no model and no text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rerank.indexing.bm25_index import best
from rerank.indexing.documents import Documents
from rerank.indexing.encoding_batches import Text, Work, key_of, open_encoded, order_of

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

#: While they are made: how many dimensions each document has, and these with their weights, one document's after
#: the other.
_COUNTS, _DIMENSIONS, _VALUES = ("counts.bin", "<i4"), ("dimensions.bin", "<i4"), ("values.bin", "<f4")
#: Documents and weights of a block, at most; a document with more than that is a block of its own.
_DOCUMENTS, _WEIGHTS = 1 << 15, 1 << 24


class SparseEncoder(Protocol):
    """Something that gives sparse vectors; a fake in tests. Rows are float32, their columns sorted, without zeros."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What the vectors of passages depend on, apart from the passages."""

    @property
    def query_identity(self) -> Mapping[str, str]:
        """What the vectors of queries depend on besides; decides nothing that is saved."""

    @property
    def size(self) -> int:
        """Dimensions of a vector."""

    def queries(self, texts: Sequence[str]) -> csr_array:
        """Encode queries, each for itself: shape (texts, size)."""

    def passages(self, texts: Sequence[str]) -> csr_array:
        """Encode passages together: shape (texts, size)."""


class SparseVectors:
    """The vectors of a corpus, memory-mapped.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: Path, documents: int, size: int) -> None:
        """Map the files of a folder.

        Raises:
            ValueError: They are not those of so many documents and dimensions.
        """
        self.folder = folder
        # blocks: shape (blocks + 1,), the first document of each; columns: shape (blocks, size + 1), where each column
        # starts in the other two: rows, a document's place in its block, and values
        self._blocks, self._columns, self._rows, self._values = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in ("blocks", "columns", "rows", "values")
        )
        if (
            self._columns.shape != (len(self._blocks) - 1, size + 1)
            or self._blocks[-1] != documents
            or not self._columns[-1, -1] == len(self._rows) == len(self._values)
        ):
            raise ValueError("its files do not fit together")

    def nearest(self, dimensions: Integers, weights: Floats, k: int, id_ranks: Integers) -> tuple[Integers, Floats]:
        """Positions and inner products of the ``k`` best documents, best first, of those above zero.

        Equal ones stand by document id, descending.

        Args:
            dimensions: Shape (n,): the query's, ascending.
            weights: Shape (n,): the query's.
            k: At least 1.
            id_ranks: Shape (documents,): place of each document's id in ascending order.
        """
        positions, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for block, start in enumerate(self._blocks[:-1]):
            products = self._products(block, dimensions, weights)
            found = best(products, id_ranks[start : start + len(products)], k)
            positions.append(found + start)
            scores.append(products[found])
        at, products = np.concatenate(positions), np.concatenate(scores)
        order = best(products, id_ranks[at], k)
        return at[order], products[order]

    def _products(self, block: int, dimensions: Integers, weights: Floats) -> Floats:
        """Inner products of a query with the documents of a block; each is summed through the dimensions upwards."""
        starts, ends = self._columns[block, dimensions], self._columns[block, dimensions + 1]
        products = np.zeros(int(self._blocks[block + 1] - self._blocks[block]), np.float32)
        for weight, start, end in zip(weights, starts, ends, strict=True):
            # a document is at most once in a column, so that no place is written twice
            products[self._rows[start:end]] += weight * self._values[start:end]
        return products


def open_vectors(
    documents: Documents, encoder: SparseEncoder, made_from: Mapping[str, str], *, text: Text, batch_size: int
) -> SparseVectors:
    """Map the saved vectors of a corpus; make them, or the rest of them, where they are not complete.

    Args:
        documents: What is encoded.
        encoder: What encodes.
        made_from: What the vectors depend on; names the folder.
        text: What of a document is encoded.
        batch_size: Documents encoded together; no part of the identity.

    Raises:
        StorageError: The cache folder cannot be written.
        BackendError: The model fails; what was committed stays.
    """
    folder = documents.folder.with_name(f"sparse-{key_of(made_from)}")
    files = _Rows(order_of(documents), encoder.size)
    work = Work(documents, encoder.passages, text, batch_size)
    return open_encoded(folder, made_from, work, files, lambda at: SparseVectors(at, len(documents), encoder.size))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Vectors as they are made, one after the other; in the end turned into blocks by columns.

    Attributes:
        order: The position in the collection of each, in the order in which they are made.
        size: Dimensions.
    """

    order: Integers
    size: int

    def begin(self, folder: Path) -> None:
        for name, _ in (_COUNTS, _DIMENSIONS, _VALUES):
            (folder / name).touch()

    def resume(self, folder: Path, done: int) -> None:
        """Cut off what was written after the last commit."""
        counts = np.fromfile(folder / _COUNTS[0], _COUNTS[1], done)
        kept = int(counts.sum(dtype=np.int64))
        for (name, dtype), entries in ((_COUNTS, done), (_DIMENSIONS, kept), (_VALUES, kept)):
            length = entries * np.dtype(dtype).itemsize
            if (found := (folder / name).stat().st_size) < length:
                raise ValueError(f"{name} has {found} bytes instead of {length}")
            os.truncate(folder / name, length)

    def add(self, folder: Path, positions: Sequence[int], rows: csr_array) -> None:
        for (name, dtype), entries in (
            (_COUNTS, np.diff(rows.indptr)),
            (_DIMENSIONS, rows.indices),
            (_VALUES, rows.data),
        ):
            with (folder / name).open("ab") as file:
                file.write(np.asarray(entries, dtype).tobytes())
                file.flush()
                os.fsync(file.fileno())

    def finish(self, folder: Path, target: Path) -> None:
        counts, dimensions, values = (_mapped(folder / name, dtype) for name, dtype in (_COUNTS, _DIMENSIONS, _VALUES))
        made = np.empty(len(self.order), np.int64)
        made[self.order] = np.arange(len(self.order))  # which of the vectors a document's is
        starts = np.cumsum(counts, dtype=np.int64) - counts
        blocks = _cut(counts[made])
        np.save(target / "blocks.npy", blocks, allow_pickle=False)
        written, columns = 0, []
        with (target / "rows.npy").open("wb") as rows_file, (target / "values.npy").open("wb") as values_file:
            for file, dtype in ((rows_file, "<i4"), (values_file, "<f4")):
                header = {"descr": dtype, "fortran_order": False, "shape": (len(values),)}
                np.lib.format.write_array_header_1_0(file, header)
            for first, end in pairwise(blocks.tolist()):
                of = made[first:end]
                places = _ranges(starts[of], counts[of])
                indptr = np.concatenate(([0], np.cumsum(counts[of], dtype=np.int64)))
                rows: Any = csr_array((values[places], dimensions[places], indptr), shape=(end - first, self.size))
                block = rows.tocsc()
                columns.append(block.indptr.astype(np.int64) + written)
                rows_file.write(block.indices.astype("<i4").tobytes())
                values_file.write(block.data.astype("<f4").tobytes())
                written += block.nnz
        np.save(target / "columns.npy", np.stack(columns), allow_pickle=False)


def _mapped(path: Path, dtype: str) -> NDArray[Any]:
    """The numbers of a file, mapped; an empty file cannot be."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _cut(counts: NDArray[np.integer[Any]]) -> Integers:
    """Where blocks start, and where the last one ends, for documents with so many weights each."""
    edges = [0]
    totals = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    while edges[-1] < len(counts):
        fitting = int(np.searchsorted(totals, totals[edges[-1]] + _WEIGHTS, side="right")) - 1
        edges.append(min(max(fitting, edges[-1] + 1), edges[-1] + _DOCUMENTS, len(counts)))
    return np.array(edges, np.int64)


def _ranges(starts: Integers, counts: NDArray[np.integer[Any]]) -> Integers:
    """The numbers ``start .. start + count - 1`` of each pair, one pair's after the other.

    >>> _ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    before = np.cumsum(counts, dtype=np.int64) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum(dtype=np.int64)))


def rows_of(matrix: csr_array) -> Iterator[tuple[Integers, Floats]]:
    """Dimensions and weights of each row."""
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        yield matrix.indices[start:end].astype(np.int64), matrix.data[start:end]
