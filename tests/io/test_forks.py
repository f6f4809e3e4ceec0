"""Locks and hooks around forks."""

from __future__ import annotations

import gc
import os
import pickle
import warnings
from collections.abc import Callable

import pytest

from rerank.io.forks import ForkLock, watch_forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def exit_code_of_fork(work: Callable[[], bool]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: this process may have threads
        child = os.fork()
    if not child:
        os._exit(not work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Watched:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        watch_forks(self)

    def before_fork(self) -> None:
        self.told.append("before")

    def after_fork_in_parent(self) -> None:
        self.told.append("parent")

    def after_fork_in_child(self) -> None:
        self.told.append("child")


def test_a_watched_object_is_told_of_every_fork() -> None:
    watched = Watched()
    assert exit_code_of_fork(lambda: watched.told == ["before", "child"]) == 0
    assert watched.told == ["before", "parent"]


def test_an_object_that_is_gone_is_told_nothing() -> None:
    told = Watched().told
    gc.collect()
    assert exit_code_of_fork(lambda: True) == 0
    assert told == []


def test_a_lock_that_is_held_is_free_in_a_forked_process() -> None:
    lock = ForkLock()

    def take() -> bool:
        with lock:
            return True

    with lock:
        assert exit_code_of_fork(take) == 0


def test_a_pickled_lock_is_free() -> None:
    lock = ForkLock()
    with lock, pickle.loads(pickle.dumps(lock)):
        pass
