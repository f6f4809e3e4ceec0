"""The embeddings of a corpus as one matrix on disk: made in batches (`_batches`), then memory-mapped.

Knows no model and no faiss.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from rerank.indexing.documents import Documents
from rerank.indexing.encoding_batches import Text, Work, key_of, link, open_encoded
from rerank.indexing.text_encoder import Encoder, Floats

__all__ = ["folder_of", "key_of", "open_embeddings"]

_FILE = "embeddings.npy"


def folder_of(documents: Documents, made_from: Mapping[str, str]) -> Path:
    """Where the embeddings of a corpus lie."""
    return documents.folder.with_name(f"embeddings-{key_of(made_from)}")


def open_embeddings(
    documents: Documents, encoder: Encoder, made_from: Mapping[str, str], *, text: Text, batch_size: int
) -> Floats:
    """Map the saved embeddings of a corpus; make them, or the rest of them, where they are not complete.

    Args:
        documents: What is embedded.
        encoder: What embeds.
        made_from: What the embeddings depend on; names the folder.
        text: What of a document is embedded.
        batch_size: Documents embedded together; no part of the identity.

    Returns:
        Shape (documents, encoder.size), a read-only map of the file.

    Raises:
        StorageError: The cache folder cannot be written.
        BackendError: The model fails; what was committed stays.
    """
    folder = folder_of(documents, made_from)
    work = Work(documents, encoder.passages, text, batch_size)
    files = _Matrix((len(documents), encoder.size))
    return open_encoded(folder, made_from, work, files, lambda ready: _map(ready / _FILE, files.shape))


@dataclass(frozen=True, slots=True)
class _Matrix:
    """One file of the full length from the start, each row at its document's place."""

    shape: tuple[int, int]

    def begin(self, folder: Path) -> None:
        with (folder / _FILE).open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 4 * self.shape[0] * self.shape[1])

    def resume(self, folder: Path, done: int) -> None:
        _map(folder / _FILE, self.shape)

    def add(self, folder: Path, positions: Sequence[int], rows: Floats) -> None:
        # Not through a memory map: on a full disk that is a signal (SIGBUS), not an error.
        with (folder / _FILE).open("r+b") as file:
            start = _data_start(file)
            for position, row in zip(positions, rows, strict=True):
                file.seek(start + position * row.nbytes)
                file.write(row.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def finish(self, folder: Path, target: Path) -> None:
        link(folder / _FILE, target / _FILE)


def _map(path: Path, shape: tuple[int, int]) -> Floats:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.shape != shape or found.dtype != np.dtype("<f4"):
        raise ValueError(f"{path.name} has shape {found.shape} and type {found.dtype} instead of {shape} and float32")
    return np.asarray(found)


def _data_start(file: IO[bytes]) -> int:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()
