"""Work that is shared among forked processes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rerank.errors import BackendError, DataError, RerankError
from rerank.io.forks import run_in_forked_processes


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
