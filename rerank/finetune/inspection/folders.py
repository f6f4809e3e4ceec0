"""A folder that is written whole or not at all. Knows nothing of what is in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rerank.errors import MissingResourceError, StorageError, UsageError


def check_new(folder: Path) -> None:
    """See whether a folder could be made, before the work that fills it.

    Raises:
        UsageError: There is something of that name already; an empty folder does not count.
        MissingResourceError: The folder that it is to stand in is not there.
    """
    try:
        full = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}", remedy="Give another name") from error
    if full:
        raise UsageError(f"{folder} is there already", expected="a new folder", remedy="Give another name to --out")
    if not folder.absolute().parent.is_dir():
        raise MissingResourceError(
            f"{folder} cannot be made: there is no folder {folder.absolute().parent}",
            remedy="Make it, or check the path",
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into, which gets its name when all is written; if anything goes wrong it is removed.

    Raises:
        UsageError: As `check_new`.
        MissingResourceError: Likewise.
        StorageError: The disk is full, or must not be written to.
    """
    check_new(folder)
    made: Path | None = None
    try:
        made = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
        made.chmod(0o755)  # mkdtemp lets nobody else in
        yield made
        if folder.is_dir():
            folder.rmdir()
        made.rename(folder)
    except OSError as error:
        raise StorageError(
            f"{folder} could not be written: {error.strerror or error}", remedy="Free space, or write elsewhere"
        ) from error
    finally:
        if made is not None and made.exists():
            shutil.rmtree(made, ignore_errors=True)
