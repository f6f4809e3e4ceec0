"""Temporary files and folders that are cleaned up later if the process that created them was killed.

A process holds a file lock while it uses a temporary path. The system releases the lock when the process ends for any
reason. A path that can be locked is therefore a leftover: later calls remove such folders and reuse such files.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import IO

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
                _folder_of_lock(path).mkdir(0o700)
                yield _folder_of_lock(path)
            finally:
                _remove_locked_folder(path)
            return


def remove_leftover_folders(parent: Path, prefix: str) -> None:
    """Remove the folders that `temporary_folder` created in ``parent`` for processes that were killed."""
    for path in parent.glob(f"{glob.escape(prefix)}{'[0-9a-f]' * 8}{_LOCK}"):
        with contextlib.suppress(OSError), path.open("r+b") as lock:
            if _take_lock(lock, path):
                _remove_locked_folder(path)


@contextlib.contextmanager
def temporary_file(target: Path) -> Generator[Path]:
    """Yield the path of a temporary file that replaces ``target`` if the block ends normally, and is removed otherwise.

    The name of the temporary file is fixed, so that a leftover of a killed process is overwritten. If a file with this
    name is in use by another process or thread, is a link, or belongs to another user, a random name is used.
    """
    path = target.with_name(f".{target.name}.tmp")
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(open(path, "ab", opener=_open_without_links))
            is_own = _take_lock(lock, path)
        except OSError:
            is_own = False
        if not is_own:
            path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            yield path
            path.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise


def _open_without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _take_lock(file: IO[bytes], path: Path) -> bool:
    """Lock a file until it is closed; return whether this succeeded and ``path`` is still the path of this file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):  # another process holds the lock, or has moved or removed the file
        return False


def _folder_of_lock(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(_LOCK))


def _remove_locked_folder(path: Path) -> None:
    """Remove a folder and then its lock file, which is kept for a later attempt if the folder cannot be removed."""
    folder = _folder_of_lock(path)
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        path.unlink(missing_ok=True)
