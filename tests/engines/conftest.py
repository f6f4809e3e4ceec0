"""A small cluster of Ray for all tests of the engine, and lists to rank."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rerank.experiment.spec import RunSpec

ROOT = Path(__file__).resolve().parents[2]
Lists = Callable[..., RunSpec]


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that makes the backend ``hazard`` a plug-in of processes that have it on their path."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "hazard-1.dist-info").mkdir()
    (folder / "hazard-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: hazard\nVersion: 1\n")
    points = "[rerank.backends]\nhazard = tests.engines.hazardous_backend:Hazard\n"
    (folder / "hazard-1.dist-info" / "entry_points.txt").write_text(points)
    return folder


@pytest.fixture(scope="session")
def python_path(plugins: Path) -> str:
    return os.pathsep.join([str(ROOT), str(plugins), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def cluster(python_path: str) -> Iterator[None]:
    """A cluster in this process tree, which ends with the tests."""
    ray = pytest.importorskip("ray")
    ray.init(
        num_cpus=8,
        num_gpus=8,  # which are not used, except that workers are told which of them to use
        object_store_memory=150_000_000,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": python_path}},
    )
    yield
    ray.shutdown()


@pytest.fixture
def lists(tmp_path: Path, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Lists:
    """Make a requests file with judgments, and a specification that reranks it in windows."""
    monkeypatch.syspath_prepend(str(plugins))

    def make(*, queries: int = 24, **options: object) -> RunSpec:
        rows, grades = [], []
        for q in range(queries):
            docs = [{"docid": f"d{q}-{n}", "doc": f"text {n} of list {q}", "score": 100 - n} for n in range(8)]
            rows.append({"query": {"qid": f"q{q}", "text": f"question number {q}"}, "candidates": docs})
            grades += [f"q{q} 0 d{q}-{n} {n % 4}" for n in range(8)]
        (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (tmp_path / "qrels.txt").write_text("\n".join(grades), encoding="utf-8")
        values: dict[str, object] = {
            "collection": f"requests:{tmp_path / 'lists.jsonl'}",
            "first_stage": "candidates",
            "qrels": str(tmp_path / "qrels.txt"),
            "method": "sliding,size=4,stride=2",
            "model": "fake:stutter,batch_size=1",
        }
        return RunSpec.make(values | options)

    return make


def workers_of(process: int) -> list[int]:
    """Return the ids of the workers of Ray that descend from a process and are at work."""
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if (path / "cmdline").read_text().startswith("ray::MapWorker"):
                found.append(int(path.name))
        except OSError:
            continue
    return [pid for pid in found if process in _ancestors(pid, parents)]


def _ancestors(process: int, parents: dict[int, int]) -> Iterator[int]:
    while process := parents.get(process, 0):
        yield process


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
