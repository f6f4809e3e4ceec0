"""Runs with workers of Ray: equal to runs in one process, whatever happens to the workers or to the run."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import BackendError, StorageError
from rerank.experiment import run_experiment, verify_run_folder
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import CallLog, RunFolder
from tests.engines.conftest import Lists, kill, workers_of
from tests.raising import raises

pytestmark = [
    pytest.mark.ray,
    pytest.mark.enable_socket,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("default"),  # those of Ray are its own
]

#: Values of a summary that depend on the folder, the clock and the addresses of fakes.
VARYING = {"folder", "hash", "model", "seconds", "reused_calls"}


def local(spec: RunSpec, folder: Path) -> Path:
    run_experiment(spec, Execution(out=folder))
    return folder


def with_ray(spec: RunSpec, folder: Path, **options: Any) -> dict[str, Any]:
    return run_experiment(spec, Execution.make({"out": folder, "engine": "ray", "workers": 2, **options}))


def calls(folder: Path) -> set[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "calls.sqlite")) as log:
        return set(log.execute("SELECT digest, text, tokens_in, tokens_out, finish, more FROM calls"))


def assert_equal(one: Path, other: Path) -> None:
    for name in ("run.trec", "judge_scores.jsonl", "scores.json", "first_stage.trec", "queries.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
    assert {k: v for k, v in first.items() if k not in VARYING} == {k: v for k, v in second.items() if k not in VARYING}
    assert calls(one) == calls(other)
    assert verify_run_folder(RunFolder(other)) == []


def recorded(folder: Path) -> Any:
    return RunFolder(folder).spec()["engine"]


@pytest.mark.parametrize(
    "options",
    [
        {"model": "fake:stutter,batch_size=1"},
        {"model": "fake-server:stutter"},
        {"model": "fake:perfect,batch_size=2", "method": "pointwise", "shuffle": "random", "top_k": 5},
        {"model": "fake:fail,rate=0.2,batch_size=3", "queries": 5},
    ],
)
def test_a_run_is_equal_to_one_in_one_process(lists: Lists, tmp_path: Path, options: dict[str, Any]) -> None:
    spec = lists(**options)
    one = local(spec, tmp_path / "local")
    with_ray(spec, tmp_path / "ray")
    assert_equal(one, tmp_path / "ray")
    assert recorded(tmp_path / "ray") == {
        "name": "ray",
        "workers": 2,
        "gpus_per_worker": 0,
        "lost_workers": 0,
        "repeated_calls": 0,
    }
    assert "engine" not in RunFolder(one).spec()


def answered(log: Path) -> list[str]:
    return log.read_text().split() if log.is_file() else []


def while_running(function: Callable[[], object], log: Path, times: int, seed: int) -> threading.Thread:
    """Call a function in a thread at random moments of a run, each time after new replies."""

    def work() -> None:
        rng, seen = random.Random(seed), 0
        for _ in range(times):
            while len(answered(log)) <= seen + rng.randrange(1, 10):
                time.sleep(0.02)
            seen = len(answered(log))
            function()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_killed_workers_change_nothing(lists: Lists, tmp_path: Path) -> None:
    served, fake = tmp_path / "served", "fake:stutter,batch_size=1,delay=0.1"
    one = local(lists(model="fake:stutter,batch_size=1"), tmp_path / "local")
    rng = random.Random(0)
    killing = while_running(lambda: kill(rng.choice(workers_of(os.getpid()))), served, times=2, seed=0)
    with_ray(lists(model=f"{fake},log={served}"), tmp_path / "ray")
    killing.join()
    assert_equal(one, tmp_path / "ray")
    losses = recorded(tmp_path / "ray")
    assert losses["lost_workers"] == 2
    assert sum(n - 1 for n in Counter(answered(served)).values()) <= losses["repeated_calls"]


def start(spec: RunSpec, folder: Path, python_path: str) -> subprocess.Popen[bytes]:
    """Start `rerank run` in another process, with its own cluster."""
    flags = ["--engine", "ray", "--workers", "2", "--out", str(folder), "--resume", "--collection", spec.collection]
    flags += ["--first-stage", "candidates", "--qrels", str(spec.qrels), "--method", spec.method, "--model", spec.model]
    command = [sys.executable, "-m", "rerank", "run", *flags]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": python_path}, stderr=subprocess.DEVNULL)


def test_a_killed_run_is_continued(lists: Lists, tmp_path: Path, python_path: str) -> None:
    served, folder = tmp_path / "served", tmp_path / "ray"
    spec = lists(model=f"fake:stutter,batch_size=1,delay=0.05,log={served}")
    one = local(lists(), tmp_path / "local")
    in_flight = 0
    for _ in range(2):
        before = len(answered(served))
        with start(spec, folder, python_path) as run:
            while len(answered(served)) < before + 7:
                time.sleep(0.02)
            kill(run.pid)
        deadline = time.monotonic() + 60
        while workers_of(run.pid) and time.monotonic() < deadline:  # they end with the process that started them
            time.sleep(0.1)
        with CallLog(folder / "calls.sqlite", readonly=True) as log:
            in_flight = len(set(answered(served))) - len(log)
        assert 0 <= in_flight <= 2
    with start(spec, folder, python_path) as run:
        assert run.wait(120) == 0
    assert_equal(one, folder)
    assert sum(n - 1 for n in Counter(answered(served)).values()) <= 4


def test_a_query_that_ends_workers_is_set_aside(lists: Lists, tmp_path: Path) -> None:
    one = local(lists(queries=8), tmp_path / "local")
    summary = with_ray(lists(queries=8, model="hazard:stutter,batch_size=2,kills=q5"), tmp_path / "ray")
    assert {failure["query"] for failure in summary["failures"]} == {"q5"}
    assert not summary["complete"]
    lines = [(one / "run.trec").read_text().splitlines(), (tmp_path / "ray" / "run.trec").read_text().splitlines()]
    assert [line for line in lines[0] if line[:3] != "q5 "] == [line for line in lines[1] if line[:3] != "q5 "]
    assert verify_run_folder(RunFolder(tmp_path / "ray")) == []


def test_a_hanging_worker_is_restarted(lists: Lists, tmp_path: Path) -> None:
    one = local(lists(), tmp_path / "local")
    spec = lists(model=f"hazard:stutter,batch_size=1,hangs=q3,folder={tmp_path}")
    with_ray(spec, tmp_path / "ray", worker_timeout=5)
    assert_equal(one, tmp_path / "ray")
    assert recorded(tmp_path / "ray")["lost_workers"] == 1


def test_errors_of_workers_have_their_class_and_keep_what_is_committed(lists: Lists, tmp_path: Path) -> None:
    with raises(BackendError, "gone", "start it again"):
        with_ray(lists(model="hazard:stutter,batch_size=1,breaks=q20"), tmp_path / "ray")
    with CallLog(tmp_path / "ray" / "calls.sqlite", readonly=True) as log:
        assert len(log) > 0


def test_a_full_disk_ends_the_run_which_is_continued(
    lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = local(lists(), tmp_path / "local")
    put, count = CallLog.put, iter(range(1000))

    def full(self: CallLog, *arguments: Any) -> Any:
        if next(count) == 20:
            raise StorageError("No space left on device")
        return put(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CallLog, "put", full)
        with raises(StorageError, "No space left"):
            with_ray(lists(), tmp_path / "ray")
    summary = with_ray(lists(), tmp_path / "ray", resume=True)
    assert summary["reused_calls"] == 20
    assert_equal(one, tmp_path / "ray")


def test_a_slow_writer_stops_the_workers(lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tmp_path / "served"
    put, ahead = CallLog.put, []

    def slow(self: CallLog, *arguments: Any) -> Any:
        time.sleep(0.05)
        ahead.append(len(answered(served)) - len(self))
        return put(self, *arguments)

    monkeypatch.setattr(CallLog, "put", slow)
    with_ray(lists(model=f"fake:stutter,batch_size=1,log={served}"), tmp_path / "ray")
    assert max(ahead) <= 2


def test_the_cap_on_tokens_counts_all_workers(lists: Lists, tmp_path: Path) -> None:
    summary = with_ray(lists(), tmp_path / "ray", max_total_tokens=3000)
    assert 0 < summary["tokens_in"] + summary["tokens_out"] <= 3000
    assert summary["windows"]["error"] > 0
