"""Encoding of a corpus in batches. If the process is killed, a later call continues after the last complete batch.

Incomplete files are in a folder ``NAME.partial``, together with the number of documents that have been flushed to the
disk. Only one process at a time writes to this folder; the others wait for its lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank.indexing.documents import StoredDocuments
from rerank.indexing.worker_encoding import EncodingWorkers
from rerank.io.sealed_folders import open_sealed_folder, storage_errors
from rerank.progress import show_progress, write_progress_line_to_stderr
from rerank.types import Document

_COUNT = "committed.json"
TextSelector = Callable[[Document], str]
T = TypeVar("T")
Rows = TypeVar("Rows", contravariant=True)
Loaded = TypeVar("Loaded")


def indexing_folder_key(made_from: Mapping[str, str]) -> str:
    """Return a short folder name that identifies ``made_from``: 16 hex digits of its SHA-256."""
    return hashlib.sha256(json.dumps(dict(made_from), sort_keys=True).encode("utf-8")).hexdigest()[:16]


class RowFiles(Protocol[Rows]):
    """Protocol of files that store encoded documents, which are added in the order of `encoding_order_by_length`."""

    def begin(self, folder: Path) -> None:
        """Create files that contain no documents yet."""

    def resume(self, folder: Path, done: int) -> None:
        """Prepare the files to continue after the first ``done`` documents.

        Raises:
            OSError, EOFError or ValueError: The files do not contain the first ``done`` documents.
        """

    def add(self, folder: Path, positions: Sequence[int], rows: Rows) -> None:
        """Write the next documents and flush them to the disk; ``positions`` are their positions in the collection."""

    def finish(self, folder: Path, target: Path) -> None:
        """Write the final files into ``target`` after all documents have been added."""


@dataclass(frozen=True, slots=True)
class EncodingJob(Generic[T]):
    """A corpus, and the functions and batch size with which its documents are encoded.

    Attributes:
        documents: All documents.
        encode: Function that encodes the texts of a batch, and returns one row per text.
        text: Function that returns the text of a document to encode.
        batch_size: Number of documents per batch. The saved files may be reused with another batch size.
        workers: Workers that encode the batches instead of ``encode``; None to encode in this process.
    """

    documents: StoredDocuments
    encode: Callable[[Sequence[str]], T]
    text: TextSelector
    batch_size: int
    workers: EncodingWorkers[T] | None = None

    def batches(self, done: int) -> Generator[tuple[list[int], T]]:
        """Yield the positions and the rows of each batch, in the order of `encoding_order_by_length`.

        Args:
            done: Number of documents at the start of this order that are skipped, since they are already encoded.
        """
        order = encoding_order_by_length(self.documents)
        starts = range(done, len(order), self.batch_size)

        def positions(start: int) -> list[int]:
            selected: list[int] = order[start : start + self.batch_size].tolist()
            return selected

        batches = ([self.text(self.documents[position]) for position in positions(start)] for start in starts)
        encoded = map(self.encode, batches) if self.workers is None else self.workers.passages(batches, len(starts))
        yield from zip(map(positions, starts), encoded, strict=True)


def encoding_order_by_length(documents: StoredDocuments) -> NDArray[np.int64]:
    """Return the positions of documents, shape (documents,), longest first; ties keep the order of the collection.

    Documents of a batch have similar lengths, so they need little padding. The order depends only on the corpus, so a
    resumed build forms the same batches as an uninterrupted build.
    """
    # batches of similar lengths need little padding; with the longest first, memory runs out at the start or never
    return np.argsort(-documents.lengths, kind="stable")


def open_encoded_index_files(
    folder: Path, made_from: Mapping[str, str], job: EncodingJob[T], files: RowFiles[T], load: Callable[[Path], Loaded]
) -> Loaded:
    """Return the result of ``load`` on the encoded files, after encoding the documents that are missing.

    Args:
        folder: The folder of the complete files.
        made_from: Everything that the files depend on.
        job: The documents, and the functions that encode them.
        files: The format of the files.
        load: Function that opens the complete files; if it raises an exception, the files count as damaged, as in
            `open_sealed_folder`.
    """
    partial = folder.with_suffix(".partial")

    def build(target: Path) -> None:
        _encode_missing_index_documents(partial, made_from, job, files)
        with storage_errors(target):
            files.finish(partial, target)

    with _lock_indexing_folder(folder.with_suffix(".lock")):
        loaded = open_sealed_folder(folder, made_from, build, load)
        shutil.rmtree(partial, ignore_errors=True)  # only now, so that no batches are lost if the process is killed
    return loaded


def link_or_copy_index_file(path: Path, target: Path) -> None:
    """Hard-link a file to a second path, or copy it if the file system has no hard links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _encode_missing_index_documents(
    partial: Path, made_from: Mapping[str, str], job: EncodingJob[T], files: RowFiles[T]
) -> None:
    total = len(job.documents)
    done = _encoded_count(partial, made_from, total, files)
    if done is None:
        done = 0
        with storage_errors(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            files.begin(partial)
            _write_encoded_count(partial, made_from, 0)
    # after an error here, closing the batches stops the work of other processes
    with show_progress("embedding documents", total, done) as advance, closing(job.batches(done)) as batches:
        for positions, rows in batches:
            done += len(positions)
            with storage_errors(partial):
                files.add(partial, positions, rows)
                _write_encoded_count(partial, made_from, done)
            advance(len(positions))


def _write_encoded_count(partial: Path, made_from: Mapping[str, str], rows: int) -> None:
    """Replace the saved number of encoded rows atomically after the rows are written, so that it is never too large."""
    draft = partial / f"{_COUNT}.new"
    draft.write_text(json.dumps({"made_from": dict(made_from), "rows": rows}), encoding="utf-8")
    draft.replace(partial / _COUNT)


def _encoded_count(partial: Path, made_from: Mapping[str, str], total: int, files: RowFiles[T]) -> int | None:
    """Return the number of documents that are already encoded; None if there are no usable files for ``made_from``."""
    try:
        count = json.loads((partial / _COUNT).read_text("utf-8"))
        rows = count["rows"]
        # type() and not isinstance(): True would be an int
        if count["made_from"] != dict(made_from) or type(rows) is not int or not 0 <= rows <= total:
            return None
        files.resume(partial, rows)
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return rows


@contextmanager
def _lock_indexing_folder(path: Path) -> Generator[None]:
    """Wait for the file lock of a folder, and hold the lock during the block or until the process ends."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            write_progress_line_to_stderr("Another process is computing these embeddings; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
