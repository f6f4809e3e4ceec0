"""The documents of a corpus encoded in batches, into files that a kill in the middle does not spoil.

While they are made the files lie in a folder ``NAME.partial`` with a count of the documents that reached the disk; one
process works on it at a time and others wait. Knows no model and no form of vector.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank.indexing.documents import Documents
from rerank.io.sealed_folders import open_folder, storing
from rerank.progress import progress, say
from rerank.types import Document

_COUNT = "committed.json"
Text = Callable[[Document], str]
T = TypeVar("T")
Given = TypeVar("Given", contravariant=True)
Loaded = TypeVar("Loaded")


def key_of(made_from: Mapping[str, str]) -> str:
    """A short name for what something is made from: 16 hex digits of a SHA-256."""
    return hashlib.sha256(json.dumps(dict(made_from), sort_keys=True).encode("utf-8")).hexdigest()[:16]


class RowFiles(Protocol[Given]):
    """Files that take encoded documents, in the order of the work."""

    def begin(self, folder: Path) -> None:
        """Make them, without any document."""

    def resume(self, folder: Path, done: int) -> None:
        """Make them ready for what comes after the first ``done`` documents.

        OSError, EOFError or ValueError: they do not hold these.
        """

    def add(self, folder: Path, positions: Sequence[int], rows: Given) -> None:
        """Take the next documents, through to the disk; they stand at ``positions`` in the collection."""

    def finish(self, folder: Path, target: Path) -> None:
        """Write what is kept into ``target``, once all documents are there."""


@dataclass(frozen=True, slots=True)
class Work(Generic[T]):
    """What is encoded and how.

    Attributes:
        documents: All of them.
        encode: Texts of a batch -> their rows.
        text: What of a document is encoded.
        batch_size: Documents encoded together; no part of the identity.
    """

    documents: Documents
    encode: Callable[[Sequence[str]], T]
    text: Text
    batch_size: int

    def batches(self, done: int) -> Generator[tuple[list[int], T]]:
        """Positions and rows of every batch after the first ``done`` documents of the order."""
        order = order_of(self.documents)
        for start in range(done, len(order), self.batch_size):
            positions: list[int] = order[start : start + self.batch_size].tolist()
            yield positions, self.encode([self.text(self.documents[at]) for at in positions])


def order_of(documents: Documents) -> NDArray[np.int64]:
    """Positions in the order of the work: longest documents first, equal lengths in the collection's order.

    Fixed by the corpus alone, so that a resumed build forms the batches that an unbroken one forms.
    """
    return np.argsort(-documents.lengths, kind="stable")


def open_encoded(
    folder: Path, made_from: Mapping[str, str], work: Work[T], files: RowFiles[T], load: Callable[[Path], Loaded]
) -> Loaded:
    """Return what ``load`` makes of the saved files; make them, or the rest of them, where they are not complete.

    Args:
        folder: Where they are kept.
        made_from: What they depend on.
        work: What is encoded.
        files: Their form.
        load: Opens them; what it raises means damage, as in `open_folder`.

    Raises:
        StorageError: The cache folder cannot be written.
        BackendError: The model fails; what was committed stays.
    """
    partial = folder.with_suffix(".partial")

    def build(target: Path) -> None:
        _complete(partial, made_from, work, files)
        with storing(target):
            files.finish(partial, target)

    with _alone(folder.with_suffix(".lock")):
        found = open_folder(folder, made_from, build, load)
        shutil.rmtree(partial, ignore_errors=True)  # only now: a kill before this must not lose them
    return found


def link(path: Path, target: Path) -> None:
    """Put a file into a second place, without a copy where the file system can."""
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


def _complete(partial: Path, made_from: Mapping[str, str], work: Work[T], files: RowFiles[T]) -> None:
    total = len(work.documents)
    done = _committed(partial, made_from, total, files)
    if done is None:
        done = 0
        with storing(partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            files.begin(partial)
            _note(partial, made_from, 0)
    with progress("embedding documents", total, done) as advance:
        for positions, rows in work.batches(done):
            done += len(positions)
            with storing(partial):
                files.add(partial, positions, rows)
                _note(partial, made_from, done)
            advance(len(positions))


def _note(partial: Path, made_from: Mapping[str, str], rows: int) -> None:
    """Replace the count in one step. It follows the rows to the disk, so it can only be too small."""
    aside = partial / f"{_COUNT}.new"
    aside.write_text(json.dumps({"made_from": dict(made_from), "rows": rows}), encoding="utf-8")
    aside.replace(partial / _COUNT)


def _committed(partial: Path, made_from: Mapping[str, str], total: int, files: RowFiles[T]) -> int | None:
    """Documents that are done; None where there is nothing, or nothing that fits."""
    try:
        found = json.loads((partial / _COUNT).read_text("utf-8"))
        rows = found["rows"]
        if found["made_from"] != dict(made_from) or type(rows) is not int or not 0 <= rows <= total:
            return None
        files.resume(partial, rows)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return rows


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
