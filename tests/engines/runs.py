"""Runs in one process and with workers of Ray, and what has to be equal."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from rerank.experiment import run_experiment, verify_run_folder
from rerank.experiment.spec import Execution, RunSpec
from rerank.store import RunFolder

#: Values of a summary that depend on the folder, the clock and the addresses of fakes.
VARYING = {"folder", "hash", "model", "seconds", "reused_calls", "checksum"}


def run_locally(spec: RunSpec, folder: Path) -> Path:
    run_experiment(spec, Execution(out=folder))
    return folder


def run_with_ray(spec: RunSpec, folder: Path, **options: Any) -> dict[str, Any]:
    return run_experiment(spec, Execution.make({"out": folder, "engine": "ray", "workers": 2, **options}))


def start_run(spec: RunSpec, folder: Path, python_path: str, *, engine: str = "ray") -> subprocess.Popen[bytes]:
    """Start `rerank run` in another process, by default with its own cluster."""
    flags = ["--engine", engine, "--workers", "2", "--out", str(folder), "--resume", "--collection", spec.collection]
    flags += ["--first-stage", "candidates", "--qrels", str(spec.qrels), "--method", spec.method, "--model", spec.model]
    command = [sys.executable, "-m", "rerank", "run", *flags]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": python_path}, stderr=subprocess.DEVNULL)


def calls_of_run(folder: Path) -> set[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "calls.sqlite")) as log:
        return set(log.execute("SELECT digest, text, tokens_in, tokens_out, finish, more FROM calls"))


def assert_equal_runs(one: Path, other: Path) -> None:
    for name in ("run.trec", "judge_scores.jsonl", "scores.json", "first_stage.trec", "queries.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
    assert {k: v for k, v in first.items() if k not in VARYING} == {k: v for k, v in second.items() if k not in VARYING}
    assert calls_of_run(one) == calls_of_run(other)
    assert verify_run_folder(RunFolder(other)) == []


def recorded_engine(folder: Path) -> Any:
    return RunFolder(folder).spec()["engine"]


def answered_queries(log: Path) -> list[str]:
    """Return what a fake with ``log`` has noted: a line per answer."""
    return log.read_text().split() if log.is_file() else []
