"""Functions that write output folders either completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rerank.errors import MissingResourceError, StorageError, UsageError
from rerank.io import atomic_folder


def check_new_merge_folder(folder: Path) -> None:
    """Check that a folder can be created, before its content is computed."""
    try:
        full = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}", remedy="Choose another name") from error
    if full:
        raise UsageError(f"{folder} already exists", expected="a new folder", remedy="Choose another --out")
    if not folder.absolute().parent.is_dir():
        raise MissingResourceError(
            f"{folder} cannot be created: the folder {folder.absolute().parent} does not exist",
            remedy="Create the folder, or check the path",
        )


@contextmanager
def new_merge_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to its final name at the end, and removed after an error."""
    check_new_merge_folder(folder)
    try:
        with atomic_folder.new_folder(folder) as draft:
            yield draft
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror or error}", remedy="Free disk space, or choose another folder"
        ) from error
