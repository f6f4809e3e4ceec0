"""Encoding of a corpus in batches. If the process is killed, a later call continues after the last complete batch.

Incomplete files are in a folder ``NAME.partial``, together with the number of documents that have been flushed to the
disk. Only one process at a time writes to this folder; the others wait for its lock.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank.errors import BackendError
from rerank.indexing.documents import StoredDocuments, folder_key
from rerank.indexing.text_encoder import Floats, TextEncoder
from rerank.io.file_systems import link_or_copy, lock_file_if_possible, open_without_links
from rerank.io.sealed_folders import open_sealed_folder, storage_errors
from rerank.progress import show_progress, write_note_to_stderr
from rerank.tasks.worker_map import WorkerMap, check_worker_model
from rerank.types import Document

_COUNT = "committed.json"
T = TypeVar("T")
AddedRows = TypeVar("AddedRows", contravariant=True)
Loaded = TypeVar("Loaded")


class RowFiles(Protocol[AddedRows]):
    """Protocol of files that store encoded documents, which are added in the order of `order_by_length`."""

    def begin(self, folder: Path) -> None:
        """Create files that contain no documents yet."""

    def resume(self, folder: Path, done: int) -> None:
        """Prepare the files to continue after the first ``done`` documents."""

    def add(self, folder: Path, positions: Sequence[int], rows: AddedRows) -> None:
        """Write the next documents and flush them to the disk; ``positions`` are their positions in the collection."""

    def finish(self, folder: Path, target: Path) -> None:
        """Write the final files into ``target`` after all documents have been added."""


@dataclass(frozen=True, slots=True)
class EncodingJob(Generic[T]):
    """A corpus, and the encoder and batch size with which its documents are encoded."""

    documents: StoredDocuments
    encoder: TextEncoder[T]
    text: Callable[[Document], str]
    batch_size: int  # number of documents per batch. The saved files may be reused with another batch size.
    workers: EncodingWorkers[T] | None = None  # workers that encode instead of this process, if not None

    def batches(self, done: int) -> Generator[tuple[list[int], T]]:
        """Yield the positions and the rows of each batch, in the order of `order_by_length`."""
        order = order_by_length(self.documents)
        starts = range(done, len(order), self.batch_size)

        def positions(start: int) -> list[int]:
            selected: list[int] = order[start : start + self.batch_size].tolist()
            return selected

        batches = ([self.text(self.documents[position]) for position in positions(start)] for start in starts)
        encode = self.encoder.passages
        encoded = map(encode, batches) if self.workers is None else self.workers.passages(batches, len(starts))
        yield from zip(map(positions, starts), encoded, strict=True)


def order_by_length(documents: StoredDocuments) -> NDArray[np.int64]:
    """Return the positions of documents, shape (documents,), longest first; ties keep the order of the collection.

    Documents of a batch have similar lengths, so they need little padding, and memory runs out at the start or never.
    The order depends only on the corpus, so a resumed build forms the same batches as an uninterrupted build.
    """
    return np.argsort(-documents.lengths, kind="stable")


def open_encoded_files(
    folder: Path, made_from: Mapping[str, str], job: EncodingJob[T], files: RowFiles[T], load: Callable[[Path], Loaded]
) -> Loaded:
    """Return the result of ``load`` on the encoded files, after encoding the documents that are missing.

    If ``load`` raises an exception, the files count as damaged, as in `open_sealed_folder`.
    """
    partial = folder.with_suffix(".partial")

    def build(target: Path) -> None:
        _encode_missing(partial, made_from, job, files)
        with storage_errors(target):
            files.finish(partial, target)

    with _lock_folder(folder.with_suffix(".lock")):
        loaded = open_sealed_folder(folder, made_from, build, load)
        shutil.rmtree(partial, ignore_errors=True)  # only now, so that no batches are lost if the process is killed
    return loaded


def _encode_missing(partial: Path, made_from: Mapping[str, str], job: EncodingJob[T], files: RowFiles[T]) -> None:
    total = len(job.documents)
    if (done := _encoded_count(partial, made_from, total, files)) is None:
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
def _lock_folder(path: Path) -> Generator[None]:
    """Wait for the file lock of a folder, and hold the lock during the block or until the process ends."""
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab", opener=open_without_links)  # noqa: SIM115
    with file:
        if not lock_file_if_possible(file):
            write_note_to_stderr("Another process is computing these embeddings; waiting for it")
            lock_file_if_possible(file, wait=True)
        yield


_FILE = "embeddings.npy"


def open_embeddings(job: EncodingJob[Floats], made_from: Mapping[str, str]) -> tuple[Floats, Path]:
    """Memory-map the embeddings of a corpus, after computing those that are missing.

    ``made_from`` is everything that the embeddings depend on; it determines the folder's name. The result is a
    read-only memory map of shape (documents, size), and the folder of its file.
    """
    folder = job.documents.folder.with_name(f"embeddings-{folder_key(made_from)}")
    files = _Matrix((len(job.documents), job.encoder.size))
    matrix = open_encoded_files(
        folder, made_from, job, files, lambda complete: _map_embeddings(complete / _FILE, files.shape)
    )
    return matrix, folder


@dataclass(frozen=True, slots=True)
class _Matrix:
    """The embeddings file. It has its full length from the start, because its rows are not written in order."""

    shape: tuple[int, int]

    def begin(self, folder: Path) -> None:
        with (folder / _FILE).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": self.shape})
            # set the full length now (4 bytes per float32), because rows arrive in encoding order, not in file order
            file.truncate(file.tell() + 4 * self.shape[0] * self.shape[1])

    def resume(self, folder: Path, done: int) -> None:
        _map_embeddings(folder / _FILE, self.shape)

    def add(self, folder: Path, positions: Sequence[int], rows: Floats) -> None:
        # Do not write through a memory map: on a full disk, this would raise a signal (SIGBUS) instead of an error.
        with (folder / _FILE).open("r+b") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            start = file.tell()  # of the numbers
            for position, row in zip(positions, rows, strict=True):
                file.seek(start + position * row.nbytes)
                file.write(row.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def finish(self, folder: Path, target: Path) -> None:
        link_or_copy(folder / _FILE, target / _FILE)


def _map_embeddings(path: Path, shape: tuple[int, int]) -> Floats:
    matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    if matrix.shape != shape or matrix.dtype != np.dtype("<f4"):
        raise ValueError(f"{path.name} has shape {matrix.shape} and type {matrix.dtype} instead of {shape} and float32")
    return np.asarray(matrix)


#: Number of queries that a worker receives at once; queries are encoded one at a time, as in a single process.
_QUERIES = 32
#: Number of batches of passages that a worker receives at once, so that exchanging messages takes little time.
_BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class EncodeTexts(Generic[T]):
    """The function by which workers encode batches of texts."""

    load: Callable[[], TextEncoder[T]]
    identity: Mapping[str, str]
    kind: Literal["queries", "passages"]

    def open(self) -> Callable[[Sequence[str]], T]:
        encoder = self.load()
        check_worker_model(encoder.identity, self.identity)
        return encoder.queries if self.kind == "queries" else encoder.passages

    def describe(self, item: Sequence[str]) -> str:
        return f"a batch of {len(item)} {self.kind} that begins with {item[0][:60]!r}"

    def give_up(self, item: Sequence[str], reason: str) -> T:
        """Raise an error for a batch that failed, because an index without its texts would be incomplete."""
        raise BackendError(reason, remedy="Omit these texts, or use --engine local to find the cause")


@dataclass(frozen=True, kw_only=True)
class EncodingWorkers(Generic[T]):
    """Workers that encode texts to the same vectors as an encoder in this process."""

    encoder: TextEncoder[T]
    load: Callable[[], TextEncoder[T]]
    apply: WorkerMap
    join: Callable[[Sequence[T]], T]

    def passages(self, batches: Iterable[Sequence[str]], count: int) -> Iterator[T]:
        """Yield the rows of each batch, in order, with one row per passage."""
        return self.apply(self._function("passages"), [batches], count=-(-count // _BATCHES), together=_BATCHES)

    def queries(self, texts: Sequence[str]) -> T:
        """Return one row per query; a small number of queries is encoded in this process.

        Loading the model in a worker takes longer than encoding a few queries.
        """
        parts = [texts[start : start + _QUERIES] for start in range(0, len(texts), _QUERIES)]
        if len(parts) < 2:
            return self.encoder.queries(texts)
        return self.join(list(self.apply(self._function("queries"), [parts], count=len(parts))))

    def _function(self, kind: Literal["queries", "passages"]) -> EncodeTexts[T]:
        return EncodeTexts(load=self.load, identity=dict(self.encoder.identity), kind=kind)
