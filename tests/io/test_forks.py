"""Locks, hooks and work around forks, and in forked processes."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from rerank.errors import BackendError, DataError, RerankError
from rerank.io.forks import ForkLock, ends_in_child_process, run_in_forked_processes, watch_forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def exit_code_of_fork(work: Callable[[], bool]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: this process may have threads
        child = os.fork()
    if not child:
        os._exit(not work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Watched:
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
        with lock.lock:
            return True

    with lock.lock:
        assert exit_code_of_fork(take) == 0


def test_a_pickled_lock_is_free() -> None:
    lock = ForkLock()
    with lock.lock, pickle.loads(pickle.dumps(lock)).lock:
        pass


def fail() -> None:
    raise ValueError("an ordinary error")


def loop() -> None:
    while True:
        pass


def fill_memory() -> None:
    b"x" * (8 << 30)


def fill_memory_and_say_so() -> None:
    try:
        fill_memory()
    except MemoryError as error:
        raise DataError("too large") from error


@pytest.mark.parametrize(
    ("work", "ends"), [(lambda: None, True), (fail, True), (fill_memory, False), (fill_memory_and_say_so, False)]
)
def test_work_ends_if_it_stays_within_its_memory(work: Callable[[], object], ends: bool) -> None:
    assert ends_in_child_process(work) is ends


def test_the_result_is_known_if_the_system_removes_children() -> None:
    earlier = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert ends_in_child_process(fail)
        assert not ends_in_child_process(fill_memory)
        assert not ends_in_child_process(loop, seconds=0.2)
    finally:
        signal.signal(signal.SIGCHLD, earlier)


def test_endless_work_is_stopped() -> None:
    start = time.monotonic()
    assert not ends_in_child_process(loop, seconds=0.2)
    assert time.monotonic() - start < 5


def test_work_that_cannot_be_pickled_is_not_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fork, a new interpreter would unpickle it; a tokenizer with code of its own cannot be pickled."""
    monkeypatch.delattr("os.fork", raising=False)
    with pytest.warns(UserWarning, match="without limits of time and memory, because it cannot be pickled"):
        assert ends_in_child_process(lambda: None)


@pytest.mark.parametrize(("count", "processes"), [(0, 2), (1, 4), (5, 1), (5, 2), (3, 8)])
def test_every_number_is_worked_on_once(tmp_path: Path, count: int, processes: int) -> None:
    run_in_forked_processes(lambda number: (tmp_path / str(number)).touch(exist_ok=False), count, processes)
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(number) for number in range(count)]


def _raise_error(error: Exception) -> None:
    raise error


@pytest.mark.skipif(sys.platform != "linux", reason="other systems work in one process")
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: _raise_error(DataError("found", expected="a", remedy="b")), DataError),
        (lambda: _raise_error(ValueError("unforeseen")), BackendError),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), BackendError),
    ],
)
def test_an_error_arrives_and_ends_the_other_process(
    failing: int, work: Callable[[], None], expected: type[RerankError]
) -> None:
    with pytest.raises(expected):
        run_in_forked_processes(lambda number: work() if number == failing else signal.pause(), 2, 2)
