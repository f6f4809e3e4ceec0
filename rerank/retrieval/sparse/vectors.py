"""Storage and exact search of the sparse vectors of a corpus.

Vectors are computed in batches and stored in blocks of documents. Each block is a matrix stored by column: for every
dimension, it lists the documents with a nonzero weight, and these weights. A search reads the columns of the query's
dimensions block by block, so the memory that it needs does not grow with the collection.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from rerank.errors import BackendError, UsageError
from rerank.indexing.bm25_index import top_positions_of_scores
from rerank.indexing.documents import folder_key
from rerank.indexing.encoding_batches import EncodingJob, open_encoded_files, order_by_length
from rerank.indexing.text_encoder import locate_encoder, require_encoder_packages
from rerank.io.model_base import MODULES
from rerank.lm.encoders import encode_in_batch, load_model, resolve_prompt
from rerank.lm.loading import named_loading_errors
from rerank.lm.out_of_memory import BatchLimit

if TYPE_CHECKING:
    from rerank.retrieval.sparse import Sparse

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

#: Names and data types of the files that exist while documents are encoded: the number of nonzero dimensions of each
#: document, and the concatenated dimensions and weights of all documents.
_COUNTS, _DIMENSIONS, _VALUES = ("counts.bin", "<i4"), ("dimensions.bin", "<i4"), ("values.bin", "<f4")
#: Maximum numbers of documents and of weights per block; a document with more weights is a block by itself.
_DOCUMENTS, _WEIGHTS = 1 << 15, 1 << 24


class SparseVectors:
    """The memory-mapped sparse vectors of a corpus, which can be searched."""

    def __init__(self, folder: Path, documents: int, size: int) -> None:
        self.folder = folder
        # blocks, shape (blocks + 1,): the first document of each block. columns, shape (blocks, size + 1): where each
        # column starts in the arrays rows (positions of documents within their block) and values (weights).
        self._blocks, self._columns, self._rows, self._values = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for name in ("blocks", "columns", "rows", "values")
        )
        if (
            self._columns.shape != (len(self._blocks) - 1, size + 1)
            or self._blocks[-1] != documents
            or not self._columns[-1, -1] == len(self._rows) == len(self._values)
        ):
            raise ValueError("its files do not match each other")

    def nearest(self, dimensions: Integers, weights: Floats, k: int, id_ranks: Integers) -> tuple[Integers, Floats]:
        """Return positions and inner products of up to ``k`` documents with the highest positive inner products.

        Results are sorted, best first; ties are broken by document id, descending. ``dimensions`` are those of the
        query that are not 0, ascending, shape (n,).
        """
        positions, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for block, start in enumerate(self._blocks[:-1]):
            products = self._products(block, dimensions, weights)
            top = top_positions_of_scores(products, id_ranks[start : start + len(products)], k)
            positions.append(top + start)
            scores.append(products[top])
        candidates, products = np.concatenate(positions), np.concatenate(scores)
        order = top_positions_of_scores(products, id_ranks[candidates], k)
        return candidates[order], products[order]

    def _products(self, block: int, dimensions: Integers, weights: Floats) -> Floats:
        """Return the inner products of a query and the documents of a block, shape (documents of the block,).

        Products of weights are added in ascending order of dimensions, so that the sums are deterministic.
        """
        starts, ends = self._columns[block, dimensions], self._columns[block, dimensions + 1]
        products = np.zeros(int(self._blocks[block + 1] - self._blocks[block]), np.float32)
        for weight, start, end in zip(weights, starts, ends, strict=True):
            # a document occurs at most once per column, so no element is updated twice here
            products[self._rows[start:end]] += weight * self._values[start:end]
        return products


def open_sparse_vectors(job: EncodingJob[csr_array], made_from: Mapping[str, str]) -> SparseVectors:
    """Memory-map the vectors of a corpus, after computing those that are missing.

    The encoder returns float32 rows with sorted columns and without stored zeros. ``made_from`` is everything that the
    vectors depend on; it determines the folder's name.
    """
    folder, size = job.documents.folder.with_name(f"sparse-{folder_key(made_from)}"), job.encoder.size
    return open_encoded_files(
        folder,
        made_from,
        job,
        _Rows(order_by_length(job.documents), size),
        lambda complete: SparseVectors(complete, len(job.documents), size),
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Files to which vectors are appended, and which are finally converted to blocks stored by column."""

    order: Integers  # positions in the collection, in the order in which documents are encoded
    size: int

    def begin(self, folder: Path) -> None:
        for name, _ in (_COUNTS, _DIMENSIONS, _VALUES):
            (folder / name).touch()

    def resume(self, folder: Path, done: int) -> None:
        weights = int(np.fromfile(folder / _COUNTS[0], _COUNTS[1], done).sum(dtype=np.int64))
        for (name, dtype), entries in ((_COUNTS, done), (_DIMENSIONS, weights), (_VALUES, weights)):
            length = entries * np.dtype(dtype).itemsize
            if (size := (folder / name).stat().st_size) < length:
                raise ValueError(f"{name} has {size} bytes instead of {length}")
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
        counts, dimensions, values = (
            _map_file(folder / name, dtype) for name, dtype in (_COUNTS, _DIMENSIONS, _VALUES)
        )
        encoded_as = np.empty(len(self.order), np.int64)
        encoded_as[self.order] = np.arange(len(self.order))  # position in the collection -> position in the files
        starts = np.cumsum(counts, dtype=np.int64) - counts
        blocks = _block_edges(counts[encoded_as])
        np.save(target / "blocks.npy", blocks, allow_pickle=False)
        written, columns = 0, []
        with (target / "rows.npy").open("wb") as rows_file, (target / "values.npy").open("wb") as values_file:
            for file, dtype in ((rows_file, "<i4"), (values_file, "<f4")):
                header = {"descr": dtype, "fortran_order": False, "shape": (len(values),)}
                np.lib.format.write_array_header_1_0(file, header)
            for first, end in pairwise(blocks.tolist()):
                block_rows = encoded_as[first:end]
                entries = _concatenate_ranges(starts[block_rows], counts[block_rows])
                indptr = np.concatenate(([0], np.cumsum(counts[block_rows], dtype=np.int64)))
                rows: Any = csr_array((values[entries], dimensions[entries], indptr), shape=(end - first, self.size))
                block = rows.tocsc()
                columns.append(block.indptr.astype(np.int64) + written)
                rows_file.write(block.indices.astype("<i4").tobytes())
                values_file.write(block.data.astype("<f4").tobytes())
                written += block.nnz
        np.save(target / "columns.npy", np.stack(columns), allow_pickle=False)


def _map_file(path: Path, dtype: str) -> NDArray[Any]:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _block_edges(counts: NDArray[np.integer[Any]]) -> Integers:
    """Divide documents into contiguous blocks of limited numbers of weights; return their starts and the last end."""
    edges = [0]
    totals = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    while edges[-1] < len(counts):
        fitting = int(np.searchsorted(totals, totals[edges[-1]] + _WEIGHTS, side="right")) - 1
        edges.append(min(max(fitting, edges[-1] + 1), edges[-1] + _DOCUMENTS, len(counts)))
    return np.array(edges, np.int64)


def _concatenate_ranges(starts: Integers, counts: NDArray[np.integer[Any]]) -> Integers:
    """Return the concatenation of the ranges ``start .. start + count - 1``.

    >>> _concatenate_ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    before = np.cumsum(counts, dtype=np.int64) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum(dtype=np.int64)))


def iterate_rows(matrix: csr_array) -> Iterator[tuple[Integers, Floats]]:
    """Yield the nonzero dimensions and the weights of each row."""
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        yield matrix.indices[start:end].astype(np.int64), matrix.data[start:end]


class SentenceSparseEncoder:
    """A SparseEncoder of sentence-transformers with its prompts and its maximum numbers of nonzero dimensions."""

    def __init__(self, model: Any, options: Sparse, *, identity: Mapping[str, str]) -> None:
        self._model, self._limit = model, BatchLimit()
        self._max_dims = options.max_active_dims or model.max_active_dims
        self._query_max_dims = options.query_max_active_dims or model.max_active_dims
        self._query_prompt = resolve_prompt(model, options.query_prompt, "query")
        self._passage_prompt = resolve_prompt(model, options.passage_prompt, "document")
        self.size = int(self.passages(["a"]).shape[1])
        self.identity: Mapping[str, str] = {
            **identity,
            "passage_prompt": self._passage_prompt,
            "max_active_dims": str(self._max_dims),
        }
        self.query_identity: Mapping[str, str] = {
            "query_prompt": self._query_prompt,
            "query_max_active_dims": str(self._query_max_dims),
        }

    def queries(self, texts: Sequence[str]) -> csr_array:
        """Encode queries one at a time, since other texts in a batch would change the last digits of a vector."""
        encode = self._model.encode_query
        rows = [self._encode(encode, [text], self._query_prompt, self._query_max_dims) for text in texts]
        stacked: Any = vstack(rows, format="csr") if rows else csr_array((0, self.size), dtype=np.float32)
        vectors: csr_array = stacked
        return vectors

    def passages(self, texts: Sequence[str]) -> csr_array:
        """Encode passages in one batch, or in smaller batches if memory runs out."""
        return self._encode(self._model.encode_document, texts, self._passage_prompt, self._max_dims)

    def _encode(self, encode: Callable[..., Any], texts: Sequence[str], prompt: str, max_dims: int | None) -> csr_array:
        def embed(batch: list[str]) -> csr_array:
            settings = {"show_progress_bar": False, "save_to_cpu": True, "max_active_dims": max_dims}
            tensor = encode(batch, prompt=prompt, batch_size=len(batch), **settings).coalesce()
            values, (rows, columns) = tensor.values().float().numpy(), tensor.indices().numpy()
            matrix = csr_array((values, (rows, columns)), shape=tuple(tensor.shape), dtype=np.float32)
            matrix.eliminate_zeros()
            matrix.sort_indices()
            return matrix

        rows: csr_array = vstack(encode_in_batch(embed, texts, self._limit), format="csr")
        if not np.isfinite(rows.data).all():
            raise BackendError("The model returned a vector with a non-finite weight", remedy="Try dtype=float32")
        return rows


def load_encoder(name: Path | str, options: Sparse) -> SentenceSparseEncoder:
    """Load a SparseEncoder from a folder or the hub."""
    require_packages()
    files = locate_encoder(name, options)
    model, identity = load_model("SparseEncoder", files, options)
    modules = files.folder / MODULES
    saves_autoencoder = modules.is_file() and "SparseAutoEncoder" in modules.read_text("utf-8")
    has_autoencoder = any(type(module).__name__ == "SparseAutoEncoder" for module in model.modules())
    if has_autoencoder and not saves_autoencoder:  # the library adds one with random weights to a dense model
        raise UsageError(
            f"{str(name)!r} is not a sparse encoder: it has no masked language model head and no trained autoencoder",
            expected="a model of sentence-transformers' class SparseEncoder, such as a SPLADE model",
            remedy="Use dense:MODEL for an embedding model",
        )
    with named_loading_errors(files, options.device):
        return SentenceSparseEncoder(model, options, identity=identity)


def require_packages() -> None:
    """Check that the packages of the extra ``sparse`` can be imported."""
    require_encoder_packages(stage="sparse", faiss=False)
