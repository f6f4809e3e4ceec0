"""The call log that all runs of a user share, so that the same request is not paid for twice."""

from __future__ import annotations

from rerank.errors import StorageError
from rerank.io.paths import cache_dir
from rerank.store.call_log import CallLog


def open_shared_call_cache() -> CallLog:
    """Open the call log that all runs share, in the user's cache folder."""
    folder = cache_dir("calls")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"The folder {str(folder)!r} cannot be created: {error.strerror}") from error
    return CallLog(folder / "calls.sqlite", prompts="none")  # prompts in the cache would never be read
