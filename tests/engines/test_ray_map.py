"""Functions that workers of Ray apply: encoding for first stages, grading for `qrels judge`, and what they share."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rerank.adjudication.judging import Grader, judge_session_by_model
from rerank.adjudication.judging.grader import GradingWorkers
from rerank.engines import open_engine
from rerank.errors import BackendError
from rerank.experiment.candidates import search_first_stage
from rerank.experiment.spec import Execution
from rerank.lm.model_process import LocalModel
from rerank.models import BackendOptions, open_model_backend
from rerank.prompts import load_prompt
from rerank.tasks.worker_map import WorkerMap
from rerank.types import Qrels
from tests.adjudication.test_grader import EACH, TEXTS, TOPICS, open_session
from tests.engines.conftest import Lists
from tests.raising import raises
from tests.retrieval.encoders import save_encoder, save_splade

pytestmark = [
    pytest.mark.ray,
    pytest.mark.enable_socket,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("default"),  # those of Ray are its own
]


@pytest.fixture
def workers() -> Iterator[WorkerMap]:
    engine = open_engine("ray", workers=2)
    engine.start(None)
    found = engine.worker_map()
    assert found is not None
    yield found
    engine.close()


@dataclass(frozen=True)
class Devices:
    """Returns the GPUs that a worker was given, after as many workers as there are items have begun."""

    folder: Path
    workers: int

    def open(self) -> Callable[[int], tuple[str | None, Any]]:
        return self._devices

    def _devices(self, item: int) -> tuple[str | None, Any]:
        import ray

        (self.folder / str(os.getpid())).touch()
        deadline = time.monotonic() + 240
        while len(list(self.folder.iterdir())) < self.workers and time.monotonic() < deadline:
            time.sleep(0.1)
        return os.environ.get("CUDA_VISIBLE_DEVICES"), ray.get_gpu_ids()

    def describe(self, item: int) -> str:
        return f"number {item}"

    def give_up(self, item: int, reason: str) -> tuple[str | None, Any]:
        raise BackendError(reason)


def test_each_of_eight_workers_sees_a_gpu_of_its_own(tmp_path: Path) -> None:
    engine = open_engine("ray", workers=8)
    model: Any = LocalModel()
    engine.start(model)
    apply = engine.worker_map()
    assert apply is not None
    seen = list(apply(Devices(tmp_path, 8), [range(8)], count=8))
    assert sorted(seen, key=str) == [(str(gpu), [gpu]) for gpu in range(8)]


@dataclass(frozen=True)
class Square:
    """Squares numbers; the process ends at some of them, the first time or always, or when it opens the function."""

    folder: Path
    ends_once: int = -1
    ends: int = -1
    ends_at_opening: bool = False
    can_give_up: bool = False

    def open(self) -> Callable[[int], int]:
        if self.ends_at_opening:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._square

    def _square(self, number: int) -> int:
        note = self.folder / str(number)
        if number == self.ends or (number == self.ends_once and not note.exists()):
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    def describe(self, item: int) -> str:
        return f"number {item}"

    def give_up(self, item: int, reason: str) -> int:
        if not self.can_give_up:
            raise BackendError(reason, remedy="--engine local")
        return -item


def test_results_arrive_in_order_and_no_item_is_read_too_early(workers: WorkerMap, tmp_path: Path) -> None:
    taken: list[int] = []
    ahead: list[int] = []

    def rounds() -> Iterator[Iterator[int]]:
        for start in (0, 50):
            assert len(taken) == start
            yield map(read, range(start, start + 50))

    def read(number: int) -> int:
        ahead.append(number - len(taken))
        return number

    for result in workers(Square(tmp_path, ends_once=33), rounds(), count=50, together=2):
        taken.append(result)
    assert taken == [number * number for number in range(100)]
    assert max(ahead) <= 2 * 2 * 3


def test_an_item_that_ends_all_workers_is_named(workers: WorkerMap, tmp_path: Path) -> None:
    with raises(BackendError, "number 3", "--engine local"):
        list(workers(Square(tmp_path, ends=3), [range(6)], count=3, together=2))


def test_an_item_that_ends_all_workers_can_be_given_up(workers: WorkerMap, tmp_path: Path) -> None:
    function = Square(tmp_path, ends=3, can_give_up=True)
    assert list(workers(function, [range(6)], count=3, together=2)) == [0, 1, 4, -3, 16, 25]


def test_a_function_that_ends_workers_when_it_is_opened_is_not_opened_for_ever(
    workers: WorkerMap, tmp_path: Path
) -> None:
    with raises(BackendError, "--workers", "--engine local"):
        list(workers(Square(tmp_path, ends_at_opening=True), [range(6)], count=3, together=2))


@pytest.mark.parametrize("stage", ["dense", "sparse"])
def test_a_first_stage_is_that_of_one_process(
    stage: str, lists: Lists, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("faiss")
    model = {"dense": save_encoder, "sparse": save_splade}[stage](tmp_path)
    (tmp_path / "corpus").mkdir()
    write_collection(tmp_path / "corpus")
    spec = lists().model_copy(
        update={
            "collection": f"jsonl:{tmp_path / 'corpus'}",
            "first_stage": f"{stage}:{model},batch_size=2,device=cpu",
            "qrels": None,
        }
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers have it
    results = []
    for name, execution in (("one", Execution()), ("ray", Execution(engine="ray", workers=2))):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        run = search_first_stage(spec, execution).run
        files = sorted((tmp_path / name).glob("listrank/indexes/**/*.npy"))
        results.append((run, [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]))
    torch.set_num_threads(threads)
    assert results[0] == results[1]
    assert results[0][1]


def write_collection(folder: Path) -> None:
    docs = [{"id": f"d{n}", "text": " ".join(f"w{word}" for word in range(n % 9 + 1, n % 20 + 8))} for n in range(45)]
    queries = [{"id": f"q{n}", "text": f"w{n % 20} w{n % 7}"} for n in range(70)]
    for name, rows in (("docs", docs), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_judgments_are_those_of_one_process(workers: WorkerMap, tmp_path: Path) -> None:
    qrels = Qrels({f"t{t}": {f"d{n}": n % 4 for n in range(EACH)} for t in range(TOPICS)})
    opened: Any = partial(open_model_backend, "fake:perfect,batch_size=2", BackendOptions(), qrels=qrels)
    grader = Grader(backend=opened(), template=load_prompt(Grader.prompt))
    for name, spread in (("one", None), ("ray", GradingWorkers(open_backend=opened, apply=workers))):
        session = open_session(tmp_path / f"{name}.jsonl", "mtf")
        assert judge_session_by_model(session, grader, TEXTS, workers=spread) == {}
    rows = [(tmp_path / f"{name}.jsonl").read_text() for name in ("one", "ray")]
    assert rows[0].count("grade") > 10
    assert rows[0] == rows[1]
