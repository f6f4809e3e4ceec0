"""Rerankers in other processes: forks while other threads rank, processes started by spawn and by loky, pickles."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.errors import UsageError
from tests.attacks.scale import scaled_count
from tests.backends.conftest import make_model, make_tokenizer
from tests.backends.faulty_server import FaultyServer, said

pytestmark = [pytest.mark.enable_socket, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

TEXTS = ["one text", "another text", "a third text"]
KEY = "sk-must-not-travel"
#: Seconds after which a child process counts as hanging.
_HANGS = 20
#: The same for a process that first imports torch.
_SLOW = 300


@pytest.fixture(autouse=True)
def _own_cache_and_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer([said("[3] > [1] > [2]")]) as running:
        yield running


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    make_model(max_position_embeddings=4096).save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def open_reranker(kind: str, server: FaultyServer) -> Reranker:
    model, _, log = kind.partition(" ")
    options: Any = {"base_url": server.url} if model == "openai:m" else {}
    reranker = Reranker.from_pretrained(model, **options)
    return reranker.with_log() if log else reranker


def order(reranker: Reranker, query: str = "a question") -> list[int]:
    return [hit.corpus_id for hit in reranker.rank(query, TEXTS)]


def in_a_fork(work: Callable[[], object]) -> str:
    """Return the result of a function in a forked process, its error, or that it hangs."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: this process has threads
        child = os.fork()
    if not child:
        signal.alarm(_HANGS)
        try:
            result = repr(work())
        except BaseException as error:  # noqa: BLE001 - the parent process reads it
            result = f"{type(error).__name__}: {error}"
        os.write(writing, result.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return text or f"ended with {os.waitstatus_to_exitcode(status)}"


@contextmanager
def busy(reranker: Reranker, threads: int = 4) -> Iterator[None]:
    """Rank in other threads, each time with another query."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def rank(thread: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                order(reranker, f"question {number} of thread {thread}")
            except BaseException as error:  # noqa: BLE001 - the test raises it
                failures.append(error)
                return

    workers = [threading.Thread(target=rank, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert not failures


@pytest.mark.parametrize("log", ["", " log"])
@pytest.mark.parametrize("model", ["fake:reversed", "fake-server:reversed", "openai:m"])
def test_forks_while_other_threads_rank(model: str, log: str, server: FaultyServer, tmp_path: Path) -> None:
    reranker = open_reranker(model + log, server)
    expected = repr(order(reranker))
    outcomes = []
    with busy(reranker):
        for number in range(scaled_count(100)):
            time.sleep(0.002 * (number % 7))
            outcomes.append(in_a_fork(lambda number=number: order(reranker, f"question {number} of a fork")))  # type: ignore[misc]
    assert outcomes == [expected] * len(outcomes)
    assert order(reranker) == [int(digit) for digit in expected if digit.isdigit()]
    if log:
        (file,) = (tmp_path / "cache").rglob("calls.sqlite")
        with closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            before = connection.execute("SELECT COUNT(*) FROM calls").fetchone()
            for number in range(len(outcomes)):  # everything that a fork asked is in the log
                order(reranker, f"question {number} of a fork")
            assert connection.execute("SELECT COUNT(*) FROM calls").fetchone() == before
    reranker.close()


def test_a_local_model_in_a_fork_says_that_spawn_is_needed(tiny: str) -> None:
    reranker = Reranker.from_pretrained(tiny)
    expected = order(reranker)
    for _ in range(scaled_count(20)):
        with busy(reranker, threads=1):
            outcome = in_a_fork(lambda: order(reranker))
        assert outcome.startswith("UsageError")
        assert "spawn" in outcome
    assert order(reranker) == expected
    reranker.close()


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


KINDS = ["fake:reversed", "fake:stutter log", "fake-server:reversed log", "openai:m log"]


@pytest.mark.parametrize(
    ("how", "kind"), [("spawn", kind) for kind in (*KINDS, "tiny", "tiny log")] + [("loky", kind) for kind in KINDS]
)
def test_other_processes_rank_equally(
    how: str, kind: str, server: FaultyServer, spawned: ProcessPoolExecutor, request: pytest.FixtureRequest
) -> None:
    if "tiny" in kind:
        kind = kind.replace("tiny", request.getfixturevalue("tiny"))
    reranker = open_reranker(kind, server)
    queries = [f"question {number}" for number in range(scaled_count(20))]
    here = [reranker.rank(query, TEXTS) for query in queries]
    if how == "spawn":
        there = [future.result(_SLOW) for future in [spawned.submit(reranker.rank, query, TEXTS) for query in queries]]
    else:
        joblib = pytest.importorskip("joblib")
        there = joblib.Parallel(2, timeout=_SLOW)(joblib.delayed(reranker.rank)(query, TEXTS) for query in queries)
    assert there == here
    assert [hits.windows for hits in there] == [hits.windows for hits in here]
    reranker.close()


@pytest.mark.parametrize("kind", ["openai:m", "openai:m log"])
def test_no_key_travels(kind: str, server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = open_reranker(kind, server)
    order(reranker)
    pickled = pickle.dumps(reranker)
    assert KEY.encode() not in pickled
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-other-process")
    with pickle.loads(pickled) as copy:
        order(copy, "another question")
    assert server.keys[-1] == "Bearer sk-of-the-other-process"
    reranker.close()


def test_a_backend_that_cannot_be_pickled_says_so() -> None:
    reranker = Reranker.from_pretrained("fake:reversed")
    for held in (threading.Lock(), threading.Event(), (n for n in "ab"), memoryview(b""), sqlite3.connect(":memory:")):
        reranker.backend = _Holding(held)
        with pytest.raises(UsageError):
            pickle.dumps(reranker)


class _Holding:
    def __init__(self, held: object) -> None:
        self.held = held
