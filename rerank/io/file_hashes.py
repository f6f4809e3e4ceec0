"""SHA-256 of files, read in pieces; that of a large one is kept in the cache folder while the file stays as it is.

Knows files, not what stands in them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from rerank.errors import MissingResourceError
from rerank.io.paths import cache_dir

#: Bytes from which on a hash is kept: below that, reading takes less than a tenth of a second.
_LARGE = 64 * 1024 * 1024
#: Nanoseconds for which a file counts as just written: a second write could leave its times as they are.
_FRESH = 2_000_000_000


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file's bytes.

    A hash that was kept is taken while size and both times (of the content and of the entry) are the same.

    Raises:
        MissingResourceError: The file cannot be read.
    """
    try:
        stat = path.stat()
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
        kept, state = cache_dir("hashes") / f"{name}.json", [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        large = stat.st_size >= _LARGE
        if large and (known := _kept(kept, state)):
            return known
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise MissingResourceError(f"{path} cannot be read: {error.strerror or error}") from error
    if large and max(state[1:]) < time.time_ns() - _FRESH:
        with contextlib.suppress(OSError):  # what cannot be kept is read again: it costs time alone
            _keep(kept, state, found)
    return found


def folder_hash(folder: Path) -> str:
    """Hex SHA-256 over the names and contents of all files below a folder.

    Raises:
        MissingResourceError: A file cannot be read.
    """
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(os.fsencode(path.relative_to(folder)) + b"\0" + file_hash(path).encode() + b"\n")
    return whole.hexdigest()


def _kept(path: Path, state: list[int]) -> str:
    try:
        found = json.loads(path.read_text("utf-8"))
        return str(found["sha256"]) if found["state"] == state else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _keep(path: Path, state: list[int], found: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps({"state": state, "sha256": found}), "utf-8")
    aside.replace(path)
