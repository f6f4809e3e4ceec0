"""Functions that create folders which appear complete or not at all, by renaming a temporary folder in one step.

A temporary folder (a draft) is created in the parent folder of its final path, because a rename is atomic only within
one file system. Errors of the operating system are not converted; callers convert them to messages for their users.
"""

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO

from rerank.io.file_systems import RENAMES_OPEN_FILES, check_only_files, file_kind, lock_file, open_without_links

#: Name of the folder for files that `fill_folder` has not moved yet. It is fixed, so that the next call can remove
#: files that a killed process left behind.
UNFINISHED = ".unfinished"


@contextlib.contextmanager
def draft_folder(folder: Path, *, prefix: str = "", mode: int = 0o777) -> Generator[Path]:
    """Yield an empty temporary folder beside ``folder``; it is removed when the block ends, unless it was moved."""
    with temporary_folder(folder.absolute().parent, prefix or f".{folder.name}.") as temporary:
        draft = temporary / "new"
        draft.mkdir(mode)
        yield draft


def move_folder(draft: Path, folder: Path, *, keep: Callable[[Path], bool] | None = None) -> None:
    """Rename ``draft`` to ``folder``, on the same file system; an empty folder at this path is replaced.

    Any other folder there must not exist, or is replaced unless ``keep``, called with its path, returns True.
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
    """Yield an empty folder that becomes ``folder``, a new path or an empty folder, when the block ends normally."""
    with draft_folder(folder) as draft:
        yield draft
        move_folder(draft, folder)


def discard_folder(folder: Path, parent: Path | None = None, *, prefix: str = ".discarded-") -> None:
    """Rename a folder, if it exists, and then delete it, so that other processes never see a partly deleted folder."""
    temporary = temporary_folder(parent or folder.absolute().parent, prefix)
    with temporary as discarded, contextlib.suppress(FileNotFoundError):
        folder.rename(discarded / folder.name)


@contextlib.contextmanager
def fill_folder(folder: Path, *, last: str) -> Generator[Path]:
    """Yield an empty folder inside ``folder``, and move its files into ``folder`` when the block ends normally.

    Existing files with the same names are replaced. The file ``last`` is moved after the others, because its presence
    tells readers that the others are complete.
    """
    check_only_files(folder, links=True)
    draft = folder / UNFINISHED
    _remove_folder(draft)
    draft.mkdir()
    try:
        yield draft
        files = sorted(path for path in draft.rglob("*") if not path.is_dir())
        for path in sorted(files, key=lambda path: path == draft / last):
            target = folder / path.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    finally:
        _remove_folder(draft)


def _remove_folder(path: Path) -> None:
    """Remove a folder with its content, if possible; `shutil.rmtree` would wait for the pipe behind a link."""
    with contextlib.suppress(OSError):
        if file_kind(path) == "folder":
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def sync_files(folder: Path) -> dict[str, int]:
    """Flush the files of a folder to the disk, and return a mapping from file name to size in bytes."""
    sizes = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.name] = path.stat().st_size
    return sizes


#: Suffix of the lock file beside a temporary folder, which is created before the folder and removed after it.
_LOCK = ".rerank-lock"


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str) -> Generator[Path]:
    """Yield a new empty folder in ``parent`` that is removed at the end; leftovers are removed first."""
    remove_leftover_folders(parent, prefix)
    while True:
        path = parent / f"{prefix}{secrets.token_hex(4)}{_LOCK}"
        with path.open("xb") as lock:
            with contextlib.suppress(OSError):  # without file locks, leftovers cannot be recognised and are kept
                if not _take_lock(lock, path):  # a concurrent call is removing it as a leftover
                    continue
            try:
                _locked_path(path).mkdir(0o700)
                yield _locked_path(path)
            finally:
                _remove_with_lock(lock, path)
            return


def remove_leftover_folders(parent: Path, prefix: str) -> None:
    """Remove the folders that `temporary_folder` created in ``parent`` for processes that were killed."""
    for path in parent.glob(f"{glob.escape(prefix)}{'[0-9a-f]' * 8}{_LOCK}"):
        with contextlib.suppress(OSError), open(path, "r+b", opener=open_without_links) as lock:
            if _take_lock(lock, path):
                _remove_with_lock(lock, path)


@contextlib.contextmanager
def temporary_file(target: Path) -> Generator[Path]:
    """Yield the path of a temporary file that replaces ``target`` if the block ends normally, and is removed otherwise.

    The name of the temporary file is fixed, so that a leftover of a killed process is overwritten. If a file with this
    name is in use by another process or thread, is a link, or belongs to another user, a random name is used; likewise
    where an open file cannot be renamed.
    """
    path = target.with_name(f".{target.name}.tmp")
    with contextlib.ExitStack() as stack:
        is_own = False
        with contextlib.suppress(OSError):
            if RENAMES_OPEN_FILES:
                lock = stack.enter_context(open(path, "ab", opener=open_without_links))
                try:
                    is_own = _take_lock(lock, path)
                except OSError:  # without file locks, the name is not used
                    is_new = not lock.tell()
                    lock.close()
                    if is_new:
                        path.unlink()
        if not is_own:
            path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            yield path
            path.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise


def _take_lock(file: IO[bytes], path: Path) -> bool:
    """Lock a file until it is closed; return whether this succeeded and ``path`` is still the path of this file."""
    try:
        return lock_file(file) and os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:  # another process has moved or removed the file
        return False


def _locked_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(_LOCK))


def _remove_with_lock(lock: IO[bytes], path: Path) -> None:
    """Remove a folder and then its lock file, which is kept for a later attempt if the folder cannot be removed."""
    folder = _locked_path(path)
    _remove_folder(folder)
    lock.close()  # Windows does not remove an open file
    if not folder.exists():
        with contextlib.suppress(FileNotFoundError, PermissionError):  # another process is removing it as a leftover
            path.unlink()
