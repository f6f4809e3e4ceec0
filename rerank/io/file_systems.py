"""Operations on files that differ between operating systems or file systems: locks, links, positions and durability."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import warnings
from pathlib import Path
from typing import IO, Any

#: Whether a file can be renamed while it is open. Windows refuses this, and a lock keeps others from the file's bytes.
RENAMES_OPEN_FILES = sys.platform != "win32"

_reading = threading.Lock()


def lock_file(file: IO[Any], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed; return False if another process holds the lock, unless ``wait``.

    The lock is that of ``flock``, with which earlier versions of this package lock the same files, and of
    ``LockFileEx`` on Windows. Raises `OSError` if the system or the file system has no locks.
    """
    from filelock import lock_descriptor

    return lock_descriptor(file.fileno(), blocking=wait)


def lock_file_if_possible(file: IO[Any], *, wait: bool = False) -> bool:
    """Do the same as `lock_file`, but warn and return True if there are no locks."""
    try:
        return lock_file(file, wait=wait)
    except OSError as error:
        problem = f"{file.name} cannot be locked ({error.strerror or error}); do not use its folder in two processes"
        warnings.warn(problem, stacklevel=2)
        return True


def open_without_links(path: str, flags: int) -> int:
    """Open a file for the argument ``opener`` of `open`; a symbolic link is an error where the system can tell."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def open_for_ranges(path: Path) -> int:
    """Return a file descriptor for `read_range`, which the caller closes."""
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def read_range(descriptor: int, start: int, size: int) -> bytes:
    """Read up to ``size`` bytes that begin ``start`` bytes after the start of a file, in any thread."""
    if sys.platform != "win32" and hasattr(os, "pread"):
        return os.pread(descriptor, size, start)
    with _reading:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, size)


def link_or_copy(source: Path, target: Path) -> None:
    """Create ``target`` as a hard link to ``source``, or as a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def sync_folder(folder: Path) -> None:
    """Flush the names of a folder's files to the disk, where a folder can be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, which has no such operation; or the folder may be written but not read
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot do this
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def restrict_to_owner(path: Path) -> None:
    """Allow only the owner to read and write a file of this user, as far as the system has file modes."""
    with contextlib.suppress(OSError):  # another process may have removed it, or the file system has no modes
        if not hasattr(os, "getuid") or path.stat().st_uid == os.getuid():
            path.chmod(0o600)
