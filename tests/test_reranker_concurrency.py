"""One reranker for many users: threads, event loops, deadlines, cancellation, closing."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from rerank import Reranker
from rerank.backends.fake import Fake, FakeServer
from rerank.errors import BackendError, DataError, UsageError
from rerank.tasks import Reply, Request
from rerank.tasks.concurrency import run_on_loop
from rerank.tasks.interruption import raise_if_interrupted
from rerank.types import Plan, Ranking, Window
from tests.raising import raises

TEXTS = [f"text {n}" for n in range(20)]
REVERSED = list(range(19, -1, -1))


def order(hits: Sequence[object]) -> list[int]:
    return [hit.corpus_id for hit in hits]  # type: ignore[attr-defined]


def test_callers_share_a_server() -> None:
    """Serialised, the replies would take 16 times as long; no caller gets the list of another."""
    backend = FakeServer("reversed", delay=0.1, concurrency=16)
    reranker = Reranker.from_backend(backend, method="fullrank")

    async def all_at_once() -> list[list[int]]:
        hits = await asyncio.gather(*(reranker.arank(f"question {n}", TEXTS[: n + 2]) for n in range(16)))
        return [order(h) for h in hits]

    assert asyncio.run(all_at_once()) == [list(range(n + 1, -1, -1)) for n in range(16)]
    assert backend.most_in_progress > 8


def test_threads_and_event_loops_share_the_concurrency() -> None:
    backend = FakeServer("reversed", delay=0.02, concurrency=3)
    reranker = Reranker.from_backend(backend, method="sliding,size=4,stride=2")

    def in_a_loop(n: int) -> list[int]:
        return order(asyncio.run(reranker.arank(f"loop {n}", TEXTS[:4])))

    def in_this_thread(n: int) -> list[int]:
        return order(reranker.rank(f"thread {n}", TEXTS[:4]))

    with ThreadPoolExecutor(12) as pool:
        loops = [pool.submit(in_a_loop, n) for n in range(6)]
        threads = [pool.submit(in_this_thread, n) for n in range(6)]
        assert [future.result() for future in (*loops, *threads)] == [[3, 2, 1, 0]] * 12
    assert backend.most_in_progress == 3


def test_a_deadline_ends_every_ranking_with_all_documents(caplog: pytest.LogCaptureFixture) -> None:
    reranker = Reranker.from_backend(FakeServer("reversed", delay=0.15), method="sliding,size=4,stride=2")
    began = time.perf_counter()
    hits = reranker.rank("question", TEXTS, deadline=0.4)
    assert time.perf_counter() - began < 1.0  # nine windows would take 1.35 s
    assert hits.expired
    assert sorted(order(hits)) == list(range(20))
    assert order(hits) != list(range(20))  # what was judged in time counts
    assert all(hit.score is None for hit in hits)
    assert "deadline" in hits.notes[0]
    assert len(caplog.records) == 1


def test_a_deadline_that_is_not_reached_changes_nothing() -> None:
    hits = Reranker.from_backend(FakeServer("reversed")).rank("question", TEXTS, deadline=60)
    assert order(hits) == REVERSED
    assert not hits.expired
    assert hits.notes == ()


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_impossible_deadlines(deadline: float) -> None:
    with raises(UsageError, "deadline"):
        Reranker.from_pretrained("fake:reversed").rank("question", TEXTS, deadline=deadline)


@pytest.mark.parametrize("run", [asyncio.run, run_on_loop], ids=["own loop", "background loop"])
def test_cancelling_a_coroutine_cancels_its_requests(run: Callable[[Coroutine[None, None, None]], None]) -> None:
    backend = FakeServer("reversed", delay=30)
    reranker = Reranker.from_backend(backend)

    async def cancelled() -> None:
        task = asyncio.create_task(reranker.arank("question", TEXTS))
        while not backend.in_progress:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while backend.in_progress:
            await asyncio.sleep(0.01)

    run(asyncio.wait_for(cancelled(), 10))


@dataclass(eq=False)
class Local(Fake):
    """A model in this process that counts its batches and can wait before each.

    Attributes:
        gate: Closed while a test wants the model to be busy.
        batches: The queries of each batch.
        threads: The threads that called it.
        shares_batches: Whether batches of several callers pay.
    """

    shares_batches: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    batches: list[set[str]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        assert self.gate.wait(10)
        self.threads.add(threading.get_ident())
        self.batches.append({request.window.query.text for request in requests})
        return super().generate(requests)


def local(*, shares: bool = False, kind: str = "reversed") -> tuple[Local, Reranker]:
    backend = Local(kind, batch_size=4)
    backend.shares_batches = shares
    return backend, Reranker.from_backend(backend, method="sliding,size=4,stride=2")


@pytest.mark.parametrize("shares", [False, True])
def test_callers_of_a_local_model_take_turns_or_share_batches(shares: bool) -> None:
    backend, reranker = local(shares=shares)
    with ThreadPoolExecutor(4) as pool, reranker:
        futures = [pool.submit(reranker.rank, f"question {n}", TEXTS) for n in range(4)]
        time.sleep(0.2)  # all have arrived
        backend.gate.set()
        for future in futures:
            assert sorted(order(future.result())) == list(range(20))
    assert len(backend.threads) == 1  # a model is used by one thread
    sizes = {len(batch) for batch in backend.batches}
    assert (sizes == {1}) is not shares
    if not shares:
        turns = [next(iter(batch)) for batch in backend.batches[1:9]]
        assert len(set(turns[:4])) == 4  # nobody waits for the whole list of another


def test_a_local_model_ends_at_the_next_batch_after_the_deadline() -> None:
    backend, reranker = local()
    with ThreadPoolExecutor(1) as pool, reranker:
        future = pool.submit(reranker.rank, "question", TEXTS, deadline=0.05)
        time.sleep(0.2)
        backend.gate.set()
        hits = future.result()
    assert hits.expired
    assert sorted(order(hits)) == list(range(20))
    assert len(backend.batches) == 1


class Stepwise(Local):
    """A model that works in steps, as a cross-encoder does in batches of pairs; each waits for the gate."""

    steps = 0

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        for _ in range(5):
            raise_if_interrupted()
            self.steps += 1
            assert self.gate.wait(10)
        return super().generate(requests)


def test_a_deadline_that_passes_between_steps_ends_the_call() -> None:
    backend = Stepwise("reversed")
    with ThreadPoolExecutor(1) as pool, Reranker.from_backend(backend, method="fullrank") as reranker:
        future = pool.submit(reranker.rank, "question", TEXTS, deadline=0.05)
        time.sleep(0.2)
        backend.gate.set()
        hits = future.result()
        assert (hits.expired, order(hits), {hit.score for hit in hits}) == (True, list(range(20)), {None})
        assert (backend.steps, backend.batches, hits.usage.calls) == (1, [], 0)
        assert order(reranker.rank("question", TEXTS, deadline=60)) == REVERSED
    assert backend.steps == 6


@pytest.mark.parametrize("closes", [False, True])
def test_a_call_that_nobody_waits_for_ends_at_its_next_step(*, closes: bool) -> None:
    backend = Stepwise("reversed")
    reranker = Reranker.from_backend(backend, method="fullrank")

    async def leave() -> None:
        task = asyncio.create_task(reranker.arank("question", TEXTS))
        while not backend.steps:
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(asyncio.to_thread(reranker.close) if closes else asyncio.sleep(0))
        if not closes:
            task.cancel()
        await asyncio.sleep(0.2)  # the reranker is closing
        backend.gate.set()
        with pytest.raises((asyncio.CancelledError, UsageError)):
            await task
        await closing
        if not closes:
            assert order(await reranker.arank("another question", TEXTS)) == REVERSED

    asyncio.run(asyncio.wait_for(leave(), 10))
    assert (backend.steps, backend.batches) == ((1, []) if closes else (6, [{"another question"}]))


@pytest.mark.parametrize("backend", [Fake("reversed"), FakeServer("reversed")])
def test_a_deadline_that_passes_before_the_first_batch_asks_nothing(backend: Fake) -> None:
    hits = Reranker.from_backend(backend, method="fullrank").rank("question", TEXTS, deadline=1e-6)
    assert (order(hits), hits.expired, hits.usage.calls) == (list(range(20)), True, 0)
    assert "deadline" in hits.notes[0]


def test_a_complete_ranking_after_the_deadline_is_marked() -> None:
    backend, reranker = local()
    backend.delay = 0.3
    backend.gate.set()
    hits = reranker.rank("question", TEXTS[:4], deadline=0.2)
    assert (order(hits), hits.expired) == ([3, 2, 1, 0], False)
    assert "late" in hits.notes[0]
    reranker.close()


def test_a_cancelled_ranking_of_a_local_model_asks_nothing_more() -> None:
    backend, reranker = local()

    async def cancelled() -> None:
        task = asyncio.create_task(reranker.arank("question", TEXTS))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        backend.gate.set()

    asyncio.run(cancelled())
    assert order(reranker.rank("another", TEXTS[:2])) == [1, 0]
    assert [batch for batch in backend.batches if "question" in batch] in ([], [{"question"}])
    reranker.close()


def test_an_error_of_a_local_model_reaches_its_callers_only() -> None:
    backend, reranker = local()
    backend.gate.set()

    def broken(requests: Sequence[Request]) -> list[Reply]:
        raise BackendError("The model failed")

    working, backend.generate = backend.generate, broken  # type: ignore[method-assign]
    with raises(BackendError, "The model failed"):
        reranker.rank("question", TEXTS)
    backend.generate = working  # type: ignore[method-assign]
    assert sorted(order(reranker.rank("question", TEXTS))) == list(range(20))
    reranker.close()


def test_closing_ends_the_thread_and_a_later_ranking_starts_another() -> None:
    backend, reranker = local()
    backend.gate.set()
    before = set(threading.enumerate())  # other tests may have left idle threads
    reranker.rank("question", TEXTS)
    assert [thread.name for thread in set(threading.enumerate()) - before] == ["rerank-service"]
    reranker.close()
    reranker.close()
    assert set(threading.enumerate()) <= before
    assert sorted(order(reranker.rank("question", TEXTS))) == list(range(20))
    asyncio.run(reranker.aclose())


def test_rank_many_reads_only_as_many_lists_as_it_works_on() -> None:
    read = []

    def endless() -> Iterator[tuple[str, list[str]]]:
        n = 0
        while True:
            read.append(n)
            yield f"question {n}", TEXTS[:3]
            n += 1

    for model in ("fake:reversed", "fake-server:reversed"):
        read.clear()
        hits = Reranker.from_pretrained(model).rank_many(endless())
        assert [order(next(hits)) for _ in range(5)] == [[2, 1, 0]] * 5
        del hits  # closes the generator
        assert len(read) < 100


def test_scores_given_beside_the_documents_decide_the_first_stage_order() -> None:
    reranker = Reranker.from_pretrained("fake:reversed")
    hits = reranker.rank("question", ["a", "b", "c"], scores=[1.0, 3.0, 2.0])
    assert [hit.text for hit in hits] == ["a", "c", "b"]
    same = reranker.rank("question", [{"text": t, "score": s} for t, s in zip("abc", (1, 3, 2), strict=True)])
    assert order(same) == order(hits)
    with raises(UsageError, "1 scores for 3 documents"):
        reranker.rank("question", ["a", "b", "c"], scores=[1.0])
    with raises(DataError, "Document 2", "inf"):
        reranker.rank("question", ["a", "b", "c"], scores=[1.0, 2.0, float("inf")])


def test_other_keys_travel_with_the_hit() -> None:
    (hit,) = Reranker.from_pretrained("fake:reversed").rank("q", [{"text": "a", "url": "u", "id": 7}])
    assert hit.source == {"url": "u"}
    assert hit.to_json() == {
        "url": "u", "id": "7", "text": "a", "corpus_id": 0, "rank": 1, "score": None, "relevance": None,
    }  # fmt: skip


def test_raw_scores_have_a_kind() -> None:
    reranker = Reranker.from_pretrained("fake:reversed", method="pointwise")
    hits = reranker.rank("question", ["a", "b"])
    assert hits.score_kind == "log-odds of relevance"
    assert [hit.score for hit in hits] == [0.0, 0.0]
    assert hits.usage.calls == 2


@dataclass(frozen=True)
class Broken:
    """A strategy with a fault."""

    def __call__(self, ranking: Ranking) -> Plan:
        yield [Window(ranking.query, ranking.docs)]
        raise ValueError("a fault in a plug-in")

    def calls(self, n: int) -> int:
        return 1


def test_a_fault_in_a_plug_in_reaches_its_caller_and_stops_nobody_else() -> None:
    backend, reranker = local()
    backend.gate.set()
    good, reranker.strategy = reranker.strategy, Broken()
    for _ in range(2):
        with pytest.raises(ValueError, match="a fault in a plug-in"):
            reranker.rank("question", TEXTS[:3])
    reranker.strategy = good
    assert sorted(order(reranker.rank("question", TEXTS))) == list(range(20))
    reranker.close()


def test_a_judge_that_fails_on_one_query_of_a_shared_batch_fails_on_no_other() -> None:
    backend, reranker = local(shares=True)
    make_requests: Callable[[Window], list[Request]] = reranker.judge.make_requests

    def failing(window: Window) -> list[Request]:
        if window.query.text == "bad":
            raise TypeError("a fault in a judge")
        return make_requests(window)

    object.__setattr__(reranker.judge, "make_requests", failing)
    with ThreadPoolExecutor(3) as pool, reranker:
        futures = {query: pool.submit(reranker.rank, query, TEXTS) for query in ("one", "bad", "two")}
        time.sleep(0.2)
        backend.gate.set()
        for query in ("one", "two"):
            assert sorted(order(futures[query].result(timeout=10))) == list(range(20))
        with pytest.raises(TypeError, match="a fault in a judge"):
            futures["bad"].result(timeout=10)


def test_a_deadline_is_kept_while_others_use_the_model() -> None:
    """Eight callers take turns with batches of .1 s; a deadline is looked at after each batch, not at each turn."""
    backend, reranker = local()
    backend.delay = 0.1
    backend.gate.set()
    with ThreadPoolExecutor(8) as pool, reranker:
        others = [pool.submit(reranker.rank, f"question {n}", TEXTS) for n in range(7)]
        time.sleep(0.05)
        began = time.perf_counter()
        assert reranker.rank("question", TEXTS, deadline=0.25).expired
        assert time.perf_counter() - began < 0.6  # its turn comes after .8 s
        for other in others:
            other.result()


def test_a_deadline_bounds_the_loading_of_the_model_too() -> None:
    backend, reranker = local()
    backend.gate.set()

    def load() -> None:
        time.sleep(1.0)

    backend.warm_up = load  # type: ignore[method-assign]
    began = time.perf_counter()
    hits = reranker.rank("question", TEXTS, deadline=0.2)
    assert time.perf_counter() - began < 0.8
    assert hits.expired
    assert order(hits) == list(range(20))
    assert asyncio.run(reranker.arank("question", TEXTS, deadline=0.2)).expired
    assert not reranker.rank("question", TEXTS).expired
    reranker.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_its_own_thread() -> None:
    backend, reranker = local()
    backend.gate.set()
    reranker.rank("question", TEXTS)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(order(reranker.rank("question", TEXTS[:2]))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: this process has threads
        child.start()
    assert queue.get(timeout=20) == [1, 0]
    child.join(20)
    queue.close()
    reranker.close()


def test_a_slow_list_does_not_let_the_others_run_away() -> None:
    @dataclass(slots=True, eq=False)
    class SlowFirst(FakeServer):
        async def _answer(self, request: Request) -> Reply:
            if request.window.query.text == "question 0":
                await asyncio.sleep(0.5)
            return await FakeServer._answer(self, request)

    read: list[int] = []

    def lists() -> Iterator[tuple[str, list[str]]]:
        for n in range(5000):
            read.append(n)
            yield f"question {n}", TEXTS[:2]

    hits = Reranker.from_backend(SlowFirst("reversed", batch_size=4)).rank_many(lists())
    next(hits)
    assert len(read) < 200
    del hits


def test_scores_within_a_window_need_a_single_window() -> None:
    """Two windows over both documents, in both orders, give two scores for each; none is the score of the document."""
    hits = Reranker.from_pretrained("fake:reversed", method="pairwise-allpair").rank("question", TEXTS[:2])
    assert [hit.score for hit in hits] == [None, None]
