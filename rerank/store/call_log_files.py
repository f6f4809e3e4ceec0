"""The URI and the permissions with which the files of a call log are opened."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def call_log_uri(path: Path, *, readonly: bool) -> str:
    """Return the URI with which SQLite opens a call log, with options such as read-only access."""
    if not readonly:
        return path.resolve().as_uri()
    # If there is no write-ahead log, the file is complete. "immutable" then keeps SQLite from creating files beside
    # it, which would fail in a read-only folder.
    log = path.with_name(f"{path.name}-wal")
    is_complete = not log.exists() or not log.stat().st_size
    return f"{path.resolve().as_uri()}?{'immutable=1' if is_complete else 'mode=ro'}"


def make_call_log_private(path: Path) -> None:
    """Allow only the owner to read a log, since prompts and replies may be confidential; create it if it is missing."""
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):  # another process may have removed it, or the file system has no modes
            if (file := Path(f"{path}{suffix}")).stat().st_uid == os.getuid():
                file.chmod(0o600)
