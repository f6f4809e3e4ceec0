from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from rerank.errors import DataError
from rerank.io.forks import ends_in_child_process


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
