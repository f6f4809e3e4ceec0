"""Functions that create folders which appear complete or not at all, by renaming a temporary folder in one step.

A temporary folder (a draft) is created in the parent folder of its final path, because a rename is atomic only within
one file system. Errors of the operating system are not converted; callers convert them to messages for their users.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

from rerank.io.temporary_paths import temporary_folder

#: Name of the folder for files that `fill_folder` has not moved yet. It is fixed, so that the next call can remove
#: files that a killed process left behind.
UNFINISHED = ".unfinished"


@contextlib.contextmanager
def draft_folder(folder: Path, *, prefix: str = "", mode: int = 0o777) -> Generator[Path]:
    """Yield an empty temporary folder beside ``folder``; it is removed when the block ends, unless it was moved.

    Args:
        folder: The final path, to which `move_folder` renames the draft later. Its parent must exist.
        prefix: Start of the temporary folder's name; if empty, ``.NAME.``, with the name of ``folder``.
        mode: Permissions of the temporary folder, reduced by the process's umask.
    """
    with temporary_folder(folder.absolute().parent, prefix or f".{folder.name}.") as temporary:
        draft = temporary / "new"
        draft.mkdir(mode)
        yield draft


def move_folder(draft: Path, folder: Path, *, keep: Callable[[Path], bool] | None = None) -> None:
    """Rename ``draft`` to ``folder``, on the same file system.

    Args:
        draft: The complete folder.
        folder: The new path. An empty folder at this path is replaced.
        keep: Function that is called with the new path if a folder exists there. If it returns True, that folder is
            kept and ``draft`` is not moved; otherwise, the folder is replaced. None if an existing folder must be
            empty.
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
        if keep is None or not folder.is_dir():  # otherwise another process was faster, and its folder is kept
            raise


@contextlib.contextmanager
def new_folder(folder: Path) -> Generator[Path]:
    """Yield an empty folder that becomes ``folder`` when the block ends without an exception.

    After an exception, the folder is removed.

    Args:
        folder: The final path. Its parent must exist; the path itself must not exist, or must be an empty folder.
    """
    with draft_folder(folder) as draft:
        yield draft
        move_folder(draft, folder)


def discard_folder(folder: Path, parent: Path | None = None, *, prefix: str = ".discarded-") -> None:
    """Rename a folder and then delete it, so that other processes never see a partly deleted folder.

    Args:
        folder: The folder; nothing happens if another process has removed it.
        parent: Folder on the same file system into which ``folder`` is moved before it is deleted; None for the parent
            of ``folder``.
        prefix: Start of the name of the temporary folder into which ``folder`` is moved.
    """
    temporary = temporary_folder(parent or folder.absolute().parent, prefix)
    with temporary as discarded, contextlib.suppress(FileNotFoundError):
        folder.rename(discarded / folder.name)


@contextlib.contextmanager
def fill_folder(folder: Path, *, last: str) -> Generator[Path]:
    """Yield an empty folder inside ``folder``, and move its files into ``folder`` when the block ends normally.

    This is meant for folders that also contain other files. The file ``last`` is moved after the others, because its
    presence tells readers that the others are complete. Existing files with the same names are replaced.

    Args:
        folder: An existing folder.
        last: Name of the file that is moved last.
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
    """Flush the files of a folder to the disk, and return a mapping from file name to size in bytes."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.name] = path.stat().st_size
    return sizes
