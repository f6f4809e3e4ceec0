"""Operations on files that differ between operating systems or file systems: locks, links, positions and durability."""

import contextlib
import errno
import os
import shutil
import stat
import sys
import threading
import warnings
from pathlib import Path
from typing import IO, Any

from rerank.errors import StorageError

#: Whether a file can be renamed while it is open. Windows refuses this, and a lock keeps others from the file's bytes.
RENAMES_OPEN_FILES = sys.platform != "win32"

_reading = threading.Lock()
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "named pipe"}


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


def file_kind(path: str | Path, *, follow: bool = False) -> str:
    """Return what a path names, such as ``file``, ``folder`` or ``symbolic link``; empty if there is nothing."""
    try:
        mode = os.stat(path, follow_symlinks=follow).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return _KINDS.get(stat.S_IFMT(mode)) or ("socket" if stat.S_ISSOCK(mode) else "device")


def is_stream_of_system(path: str | Path) -> bool:
    """Return whether a path is a device or an open stream that the user names, such as /dev/stdout or ``<(...)``."""
    absolute = os.path.abspath(path)
    return absolute.startswith(("/dev/", "/proc/")) and not absolute.startswith("/dev/shm/")


def check_only_files(folder: Path, *, links: bool = False) -> None:
    """Check that a folder, which may be from somebody else, contains only regular files and folders, at any depth.

    With ``links``, its files may also be symbolic links, for callers that replace a link and never write through it.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            kind = file_kind(path)
            if kind not in ("", "file", "folder") and not (links and kind == "symbolic link" and name in files):
                raise StorageError(
                    f"{path} is a {kind}",
                    expected="only regular files and folders in a folder to which results are written",
                    remedy="Remove it if you do not know it, or choose another folder",
                )


def open_without_links(path: str, flags: int) -> int:
    """Open a file for the argument ``opener`` of `open`; a link, pipe, device or folder is an error."""
    if (kind := file_kind(path)) not in ("", "file"):
        raise OSError(errno.EINVAL, f"it is a {kind}, not a regular file", path)
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
