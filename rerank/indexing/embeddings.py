"""Storage of the embeddings of a corpus as one matrix on disk, which is computed in batches and then memory-mapped."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from rerank.indexing.documents import StoredDocuments
from rerank.indexing.encoding_batches import (
    EncodingJob,
    TextSelector,
    indexing_folder_key,
    link_or_copy_index_file,
    open_encoded_index_files,
)
from rerank.indexing.text_encoder import Encoder, Floats
from rerank.indexing.worker_encoding import EncodingWorkers

__all__ = ["embeddings_folder", "indexing_folder_key", "open_embeddings"]

_FILE = "embeddings.npy"


def embeddings_folder(documents: StoredDocuments, made_from: Mapping[str, str]) -> Path:
    """Return the folder of the embeddings that depend on ``made_from``, beside the folder of the documents."""
    return documents.folder.with_name(f"embeddings-{indexing_folder_key(made_from)}")


def open_embeddings(
    documents: StoredDocuments,
    encoder: Encoder,
    made_from: Mapping[str, str],
    *,
    text: TextSelector,
    batch_size: int,
    workers: EncodingWorkers[Floats] | None = None,
) -> Floats:
    """Memory-map the embeddings of a corpus, after computing those that are missing.

    Args:
        documents: The documents.
        encoder: The encoder.
        made_from: Everything that the embeddings depend on; it determines the folder's name.
        text: Function that returns the text of a document to embed.
        batch_size: Number of documents per batch. The saved embeddings may be reused with another batch size.
        workers: Workers that embed the texts instead of this process; None to embed the texts in this process.

    Returns:
        The embeddings, shape (documents, encoder.size), as a read-only memory map of the file.
    """
    folder = embeddings_folder(documents, made_from)
    job = EncodingJob(documents, encoder.passages, text, batch_size, workers)
    files = _Matrix((len(documents), encoder.size))
    return open_encoded_index_files(
        folder, made_from, job, files, lambda complete: _map_embeddings(complete / _FILE, files.shape)
    )


@dataclass(frozen=True, slots=True)
class _Matrix:
    """The embeddings file. It has its full length from the start, because its rows are not written in order."""

    shape: tuple[int, int]

    def begin(self, folder: Path) -> None:
        with (folder / _FILE).open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            # set the full length now (4 bytes per float32), because rows arrive in encoding order, not in file order
            file.truncate(file.tell() + 4 * self.shape[0] * self.shape[1])

    def resume(self, folder: Path, done: int) -> None:
        _map_embeddings(folder / _FILE, self.shape)

    def add(self, folder: Path, positions: Sequence[int], rows: Floats) -> None:
        # Do not write through a memory map: on a full disk, this would raise a signal (SIGBUS) instead of an error.
        with (folder / _FILE).open("r+b") as file:
            start = _offset_of_indexed_vectors(file)
            for position, row in zip(positions, rows, strict=True):
                file.seek(start + position * row.nbytes)
                file.write(row.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def finish(self, folder: Path, target: Path) -> None:
        link_or_copy_index_file(folder / _FILE, target / _FILE)


def _map_embeddings(path: Path, shape: tuple[int, int]) -> Floats:
    matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    if matrix.shape != shape or matrix.dtype != np.dtype("<f4"):
        raise ValueError(f"{path.name} has shape {matrix.shape} and type {matrix.dtype} instead of {shape} and float32")
    return np.asarray(matrix)


def _offset_of_indexed_vectors(file: IO[bytes]) -> int:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()
