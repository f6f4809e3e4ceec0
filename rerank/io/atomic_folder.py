"""Folders that appear complete or not at all: built beside their place, then renamed into it in one step.

A draft lies in the parent of the folder that it becomes, since only a rename within one file system is atomic. Errors
of the operating system are not translated: each caller words them for its user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

#: Folder for files that `fill_folder` has not moved yet. Its name is fixed, so that the next call removes what a
#: killed process left.
UNFINISHED = ".unfinished"


@contextlib.contextmanager
def draft_folder(folder: Path, *, prefix: str = "", mode: int = 0o777) -> Generator[Path]:
    """Yield an empty temporary folder beside ``folder``; what is left of it at the end is removed.

    Args:
        folder: The path that `move_folder` gives it later. Its parent must exist.
        prefix: Start of the temporary folder's name; by default ``.NAME.``.
        mode: Permissions, reduced by the process's umask.

    Raises:
        OSError: The folder cannot be created.
    """
    with tempfile.TemporaryDirectory(
        prefix=prefix or f".{folder.name}.", dir=folder.absolute().parent, ignore_cleanup_errors=True
    ) as temporary:
        draft = Path(temporary) / "new"
        draft.mkdir(mode)
        yield draft


def move_folder(draft: Path, folder: Path, *, keep: Callable[[Path], bool] | None = None) -> None:
    """Rename ``draft`` to ``folder``, on the same file system.

    Args:
        draft: The complete folder.
        folder: Its new path. An empty folder there is replaced.
        keep: Called if there is a folder at the new path: True keeps that one and leaves ``draft``, False replaces it.
            Without ``keep``, a folder that is not empty is an error.

    Raises:
        OSError: The folder cannot be renamed, or the path is taken.
    """
    if keep is not None and folder.is_dir():
        if keep(folder):
            return
        discard_folder(folder, draft.parent)
    elif folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # Windows does not rename onto an existing folder
    try:
        draft.rename(folder)
    except OSError:
        if keep is None or not folder.is_dir():  # otherwise another process was faster, and its folder stays
            raise


@contextlib.contextmanager
def new_folder(folder: Path) -> Generator[Path]:
    """Yield an empty folder that becomes ``folder`` when the block ends without an exception.

    After an exception nothing of it remains.

    Args:
        folder: The final path. Its parent must exist; the path itself must be free, or an empty folder.

    Raises:
        OSError: The folder cannot be created or renamed.
    """
    with draft_folder(folder) as draft:
        yield draft
        move_folder(draft, folder)


def discard_folder(folder: Path, parent: Path | None = None, *, prefix: str = ".discarded-") -> None:
    """Remove a folder so that no reader sees half of it: rename it first, then delete it.

    Args:
        folder: The folder; nothing happens if another process has removed it.
        parent: Where it is moved to, on the same file system; by default its own parent.
        prefix: Start of the temporary folder's name.

    Raises:
        OSError: The folder cannot be renamed.
    """
    parent = parent or folder.absolute().parent
    temporary = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
    with temporary as name, contextlib.suppress(FileNotFoundError):
        folder.rename(Path(name) / folder.name)


@contextlib.contextmanager
def fill_folder(folder: Path, *, last: str) -> Generator[Path]:
    """Yield an empty folder inside ``folder``, and move its files into ``folder`` when the block ends normally.

    For folders that also hold other files. Readers take ``last`` as the sign that the others are complete, so it is
    moved after them. Files with the same names are replaced.

    Args:
        folder: An existing folder.
        last: Name of the file that is moved last.

    Raises:
        OSError: A file cannot be moved.
    """
    draft = folder / UNFINISHED
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        files = sorted(path for path in draft.rglob("*") if not path.is_dir())
        for path in sorted(files, key=lambda path: path == draft / last):
            target = folder / path.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sync_files(folder: Path) -> dict[str, int]:
    """Force the files of a folder to the disk, and return name -> size in bytes."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.name] = path.stat().st_size
    return sizes
