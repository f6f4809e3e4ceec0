"""A lock that is free in a forked process, and a function that calls methods of an object around each fork.

A fork copies only the thread that forks. A lock that another thread holds during the fork would never be released in
the new process.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Literal

_Event = Literal["before_fork", "after_fork_in_parent", "after_fork_in_child"]

#: Weak references to the watched objects by ``id``, since these objects need not be hashable.
_watched: dict[int, weakref.ref[Any]] = {}
#: The objects that were watched when the current fork began.
_forking: list[Any] = []


def watch_forks(watched: object) -> None:
    """Call an object's methods around every fork of this process, as long as the object exists.

    Args:
        watched: The object. Its methods ``before_fork``, ``after_fork_in_parent`` and ``after_fork_in_child`` are
            called; each of these methods is optional.
    """
    key = id(watched)
    _watched[key] = weakref.ref(watched, lambda _: _watched.pop(key, None))


class ForkLock:
    """A lock for ``with`` that is free in a forked process, even if another thread held it during the fork."""

    def __init__(self) -> None:
        """Create a free lock."""
        self._lock = threading.Lock()
        watch_forks(self)

    def __enter__(self) -> None:
        """Wait for the lock and acquire it."""
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        """Release the lock."""
        self._lock.release()

    def __reduce__(self) -> tuple[type[ForkLock], tuple[()]]:
        """Pickle the lock as a free lock."""
        return ForkLock, ()

    def after_fork_in_child(self) -> None:
        """Replace the lock by a free lock."""
        self._lock = threading.Lock()


def _begin_fork() -> None:
    _forking[:] = [watched for reference in list(_watched.values()) if (watched := reference()) is not None]
    _tell_fork_watchers("before_fork")


def _end_fork(event: _Event) -> None:
    _tell_fork_watchers(event)
    _forking.clear()


def _tell_fork_watchers(event: _Event) -> None:
    for watched in _forking:
        if (method := getattr(watched, event, None)) is not None:
            method()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_begin_fork,
        after_in_parent=lambda: _end_fork("after_fork_in_parent"),
        after_in_child=lambda: _end_fork("after_fork_in_child"),
    )
