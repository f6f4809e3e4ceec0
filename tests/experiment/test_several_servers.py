"""Runs on two servers, one of which is killed in the middle and started again."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rerank.experiment import run_experiment, verify_run_folder
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import RunFolder
from tests.test_kill import write_lists

pytestmark = [pytest.mark.enable_socket, pytest.mark.filterwarnings("ignore:The server .* does not answer")]
QUERIES, DEPTH = 12, 12


class ServerProcess:
    """A stand-in server as a process; may be killed and started again at the same address."""

    def __init__(self, log: Path, delay: float = 0.02) -> None:
        self.log, self._delay = log, delay
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self._port: int = unused.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "tests.backends.server_process",
            str(self._port),
            str(self._delay),
            str(self.log),
        ]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def hold(self) -> Path:
        """A file; while it exists, the server takes seconds for each answer."""
        return self.log.with_suffix(".hold")

    def answered(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").split() if self.log.exists() else []


def wait_for_answers(server: ServerProcess, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(server.answered()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def processes(folder: Path, count: int) -> Iterator[list[ServerProcess]]:
    with ExitStack() as stack:
        servers = []
        for at in range(count):
            servers.append(ServerProcess(folder / f"answered{at}"))
            stack.callback(servers[-1].kill)
        yield servers


def run(folder: Path, urls: list[str], name: str, **execution: Any) -> dict[str, Any]:
    flags = write_lists(folder, queries=QUERIES, depth=DEPTH)
    values = dict(zip([flag.removeprefix("--").replace("-", "_") for flag in flags[::2]], flags[1::2], strict=True))
    spec = RunSpec.make(
        {**values, "model": "openai:m", "base_url": urls, "method": "sliding,size=4,stride=2", "context_size": 4096}
    )
    return run_experiment(spec, Execution(out=folder / name, call_cache=False, concurrency=2, **execution))


def digests(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "calls.sqlite")) as db:
        return [digest for (digest,) in db.execute("SELECT digest FROM calls")]


def test_a_server_that_dies_and_comes_back_changes_nothing(tmp_path: Path) -> None:
    assert_a_lost_server_changes_nothing(tmp_path)


def assert_a_lost_server_changes_nothing(tmp_path: Path, *, in_flight: int = 2, **execution: Any) -> None:
    """Kill one of two servers during a run and start it again; at most ``in_flight`` requests are repeated."""
    with processes(tmp_path, 2) as (first, second):
        whole = run(tmp_path, [first.url], "whole")
        for server in (first, second):
            server.log.write_text("")
        back_at: list[int] = []

        def kill_and_start() -> None:
            wait_for_answers(second, 5)
            second.kill()
            wait_for_answers(first, len(first.answered()) + 4)
            # Else the run could end before the other is back. It does not wait for the other: workers that had all
            # their lists at the first would wait for each other.
            first.hold.touch()
            second.start()
            back_at.append(len(second.answered()))
            wait_for_answers(second, back_at[0] + 1)
            first.hold.unlink()

        killer = threading.Thread(target=kill_and_start)
        killer.start()
        both = run(tmp_path, [first.url, second.url], "both", **execution)
        killer.join()
        answered = first.answered() + second.answered()
    assert (tmp_path / "both/run.trec").read_bytes() == (tmp_path / "whole/run.trec").read_bytes()
    assert both["calls"] == whole["calls"] == QUERIES * 5
    assert both["scores"] == whole["scores"]
    committed = digests(tmp_path / "both")
    assert len(committed) == len(set(committed)) == both["calls"]
    # Only requests whose answers the killed server had not sent were answered twice.
    assert len(set(answered)) == both["calls"]
    assert len(answered) - len(set(answered)) <= in_flight
    assert len(second.answered()) > back_at[0] >= 5, "the server got requests again"
    assert verify_run_folder(RunFolder.existing(tmp_path / "both")) == []
    spec = json.loads((tmp_path / "both/spec.json").read_text())
    assert spec["spec"]["base_url"] == [first.url, second.url]


def test_a_run_is_resumed_with_the_servers_in_another_order(tmp_path: Path) -> None:
    with processes(tmp_path, 2) as (first, second):
        run(tmp_path, [first.url, second.url], "run")
        again = run(tmp_path, [second.url, first.url], "run", resume=True)
        assert again["reused_calls"] == QUERIES * 5
        assert len(first.answered()) + len(second.answered()) == QUERIES * 5
