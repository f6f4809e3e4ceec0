"""SHA-256 hashes of files and folders; the hash of a large file is cached until the file changes."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from rerank.errors import MissingResourceError
from rerank.io.atomic_folder import temporary_file
from rerank.io.paths import cache_dir

#: Minimum size in bytes of files whose hash is cached; smaller files are read again in less than 0.1 seconds.
_LARGE = 64 * 1024 * 1024
#: A file modified less than this many nanoseconds ago may be modified again without a change of its time stamps.
_FRESH = 2_000_000_000


def file_hash(path: Path) -> str:
    """Return the hex SHA-256 of a file, from the cache while size, times (mtime and ctime) and inode are unchanged."""
    try:
        stat = path.stat()
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
        cache = cache_dir("hashes") / f"{name}.json"
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        large = stat.st_size >= _LARGE
        if large:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                known = json.loads(cache.read_text("utf-8"))
                if known["state"] == state and known["sha256"]:
                    return str(known["sha256"])
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror or error}") from error
    if large and max(stat.st_mtime_ns, stat.st_ctime_ns) < time.time_ns() - _FRESH:
        with contextlib.suppress(OSError):  # if the cache cannot be written, the next call reads the file again
            cache.parent.mkdir(parents=True, exist_ok=True)
            with temporary_file(cache) as draft:
                draft.write_text(json.dumps({"state": state, "sha256": digest}), "utf-8")
    return digest


def folder_hash(folder: Path) -> str:
    """Return the hex SHA-256 over the names and contents of all files in a folder and its sub-folders."""
    digest = hashlib.sha256()
    for path in sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.parts):
        digest.update(os.fsencode(path.relative_to(folder).as_posix()) + b"\0" + file_hash(path).encode() + b"\n")
    return digest.hexdigest()
