"""The embeddings of a corpus on disk: made in batches, gone on with after a kill, then memory-mapped.

While they are made they lie in a folder ``embeddings-KEY.partial`` with a count of the rows that reached the disk; one
process works on it at a time and others wait. Knows no model and no faiss.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from rerank.progress import progress, say
from rerank.retrieval._documents import Documents
from rerank.retrieval._encoder import Encoder, Floats
from rerank.retrieval._folders import open_folder, storing
from rerank.types import Document

_FILE, _COUNT = "embeddings.npy", "committed.json"
Text = Callable[[Document], str]


def key_of(made_from: Mapping[str, str]) -> str:
    """A short name for what something is made from: 16 hex digits of a SHA-256."""
    return hashlib.sha256(json.dumps(dict(made_from), sort_keys=True).encode("utf-8")).hexdigest()[:16]


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
    folder = documents.folder.with_name(f"embeddings-{key_of(made_from)}")
    partial = folder.with_suffix(".partial")
    shape = (len(documents), encoder.size)

    def build(target: Path) -> None:
        _complete(partial, made_from, _Work(documents, encoder, text, batch_size))
        with storing(target):
            _link(partial / _FILE, target / _FILE)

    with _alone(folder.with_suffix(".lock")):
        found = open_folder(folder, made_from, build, lambda ready: _map(ready / _FILE, shape))
        shutil.rmtree(partial, ignore_errors=True)  # only now: a kill before this must not lose them
    return found


class _Work:
    """The batches of a corpus: longest documents first, equal lengths in the collection's order.

    The order is fixed by the corpus alone, so that a resumed build forms the batches that an unbroken one forms.
    """

    def __init__(self, documents: Documents, encoder: Encoder, text: Text, batch_size: int) -> None:
        self._documents, self._encoder, self._text, self._size = documents, encoder, text, batch_size
        self._order: NDArray[np.int64] = np.argsort(-documents.lengths, kind="stable")
        self.shape = (len(documents), encoder.size)

    def batches(self, done: int) -> Generator[tuple[Sequence[int], Floats]]:
        """Positions and embeddings of every batch after the first ``done`` rows of the order."""
        for start in range(done, len(self._order), self._size):
            positions: list[int] = self._order[start : start + self._size].tolist()
            yield positions, self._encoder.passages([self._text(self._documents[at]) for at in positions])


def _complete(partial: Path, made_from: Mapping[str, str], work: _Work) -> None:
    done = _committed(partial, made_from, work.shape)
    with storing(partial):
        if done is None:
            done = _begin(partial, made_from, work.shape)
        file = (partial / _FILE).open("r+b")
    with file, progress("embedding documents", work.shape[0], done) as advance:
        start = _data_start(file)
        for positions, rows in work.batches(done):
            done += len(positions)
            with storing(partial):
                # Not through a memory map: on a full disk that is a signal (SIGBUS), not an error.
                for position, row in zip(positions, rows, strict=True):
                    file.seek(start + position * row.nbytes)
                    file.write(row.tobytes())
                file.flush()
                os.fsync(file.fileno())
                _note(partial, made_from, done)
            advance(len(positions))


def _begin(partial: Path, made_from: Mapping[str, str], shape: tuple[int, int]) -> int:
    """Make an empty file of the full length; return 0, the rows that are in it."""
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / _FILE).open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * shape[0] * shape[1])
    _note(partial, made_from, 0)
    return 0


def _note(partial: Path, made_from: Mapping[str, str], rows: int) -> None:
    """Replace the count in one step. It follows the rows to the disk, so it can only be too small."""
    aside = partial / f"{_COUNT}.new"
    aside.write_text(json.dumps({"made_from": dict(made_from), "rows": rows}), encoding="utf-8")
    aside.replace(partial / _COUNT)


def _committed(partial: Path, made_from: Mapping[str, str], shape: tuple[int, int]) -> int | None:
    """Rows that are done; None where there is nothing, or nothing that fits."""
    try:
        found = json.loads((partial / _COUNT).read_text("utf-8"))
        _map(partial / _FILE, shape)
        rows = found["rows"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return rows if found["made_from"] == dict(made_from) and type(rows) is int and 0 <= rows <= shape[0] else None


def _map(path: Path, shape: tuple[int, int]) -> Floats:
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.shape != shape or found.dtype != np.dtype("<f4"):
        raise ValueError(f"{path.name} has shape {found.shape} and type {found.dtype} instead of {shape} and float32")
    return np.asarray(found)


def _data_start(file: IO[bytes]) -> int:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Hold a lock that the system gives back when the process ends, however it ends."""
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another process is making these embeddings; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
