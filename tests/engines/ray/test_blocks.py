"""The blocks of a run: their order, their bounds, and what becomes of those of lost workers. Ray is not needed."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.engines.ray import WorkerPool
from rerank.engines.ray.blocks import (
    WAIT,
    BeginCalls,
    BlockWork,
    Fail,
    FinishBlock,
    KeepCalls,
    OpenBlock,
    OpenItem,
    OpenModel,
    WorkBlocks,
)
from rerank.errors import BackendError
from rerank.pipeline.stream import Flow
from rerank.prompts.base import Message
from rerank.store import CallLog, LoggingBackend
from rerank.store.logging_backend import CallDesk
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Query, Ranking
from tests.raising import raises

Blocks = WorkBlocks[Ranking, Any]
LISTS = [Ranking.from_order(Query(id=f"q{n}", text="x"), [Document(id="d", text="y")]) for n in range(9)]
CALL = {"digest": Request(prompt=(Message("user", "x"),), sampling=Sampling(max_tokens=1))}


@pytest.fixture
def read() -> list[Ranking]:
    """The lists that have been read."""
    return []


@pytest.fixture
def blocks(read: list[Ranking], tmp_path: Path) -> Iterator[Blocks]:
    def lists() -> Iterator[Ranking]:
        for ranking in LISTS:
            read.append(ranking)
            yield ranking

    with CallLog(tmp_path / "calls.sqlite") as log:
        desk = CallDesk(LoggingBackend(backend=Fake("reversed"), log=log))
        yield WorkBlocks([lists()], size=2, ahead=3, describe=lambda ranking: f"query {ranking.query.id!r}", desk=desk)


def open_block(blocks: WorkBlocks[Any, Any], ticket: int, worker: str = "") -> Any:
    """Open a block, by default with a worker of its own."""
    return blocks.answer(OpenBlock(ticket=ticket, worker=worker or f"worker {ticket}"))


def finish(blocks: WorkBlocks[Any, Any], block: int, results: Sequence[Any] = ()) -> list[Any]:
    """Finish a block, and return the results that can be taken."""
    blocks.answer(FinishBlock(block=block, results=results))
    return list(blocks.take_results())


def lose(blocks: Blocks, position: int | None = None) -> Any:
    """Open the first block, begin a call of a list, and lose the worker; return the answer to the next worker."""
    work = open_block(blocks, 0, "old")
    if work.one_by_one:
        blocks.answer(OpenItem(block=0, attempt=work.attempt, position=position or 0))
    begun = blocks.answer(BeginCalls(block=0, attempt=work.attempt, requests=CALL))
    assert begun.missing == ("digest",)
    return open_block(blocks, 0, "new")


@pytest.mark.parametrize("queries", [43, 323, 6980])
@pytest.mark.parametrize(("schedules_requests", "busy"), [(False, 1), (True, 8)])
def test_lists_for_a_model_that_schedules_its_requests_keep_all_workers_busy(
    queries: int, schedules_requests: bool, busy: int
) -> None:
    backend: Any = SimpleNamespace(batch_size=1024, schedules_requests=schedules_requests)
    size = Flow.of(backend, share=math.ceil(queries / 8)).block or 0
    blocks: WorkBlocks[int, Any] = WorkBlocks([range(queries)], size=size, ahead=24, describe=str)
    works = [work for ticket in range(8) if isinstance(work := open_block(blocks, ticket), BlockWork)]
    assert (len(works), sum(len(work.items) for work in works)) == (busy, queries)


def test_results_are_yielded_in_order(blocks: Blocks) -> None:
    first, second = open_block(blocks, 0), open_block(blocks, 1)
    assert [ranking.query.id for work in (first, second) for ranking in work.items] == ["q0", "q1", "q2", "q3"]
    assert finish(blocks, 1, ["q2", "q3"]) == []
    assert finish(blocks, 0, ["q0", "q1"]) == ["q0", "q1", "q2", "q3"]
    open_block(blocks, 2)
    assert finish(blocks, 2, ["q4", "q5"]) == ["q4", "q5"]


def test_no_block_is_read_that_is_too_far_ahead(blocks: Blocks, read: list[Ranking]) -> None:
    for ticket in range(3):
        assert open_block(blocks, ticket) is not WAIT
    finish(blocks, 1), finish(blocks, 2)
    assert open_block(blocks, 3) is WAIT
    assert len(read) == 6
    finish(blocks, 0)
    assert open_block(blocks, 3) is not WAIT
    assert len(read) == 8


def test_the_last_block_may_be_smaller(blocks: Blocks) -> None:
    for block in range(5):
        work = open_block(blocks, 0)
        assert work.block == block
        finish(blocks, block)
    assert len(work.items) == 1
    assert open_block(blocks, 0) is None
    assert blocks.lost_workers == 0


def test_a_finished_block_is_not_processed_again(blocks: Blocks) -> None:
    open_block(blocks, 0)
    finish(blocks, 0)
    assert open_block(blocks, 0, "another").block == 1
    assert blocks.answer(KeepCalls(block=0, replies={})) is None
    assert blocks.lost_workers == 0


def test_a_round_begins_once_the_results_of_the_last_one_are_taken() -> None:
    taken: list[int] = []
    rounds = ([len(taken), len(taken) + 1, len(taken) + 2] for _ in range(2))
    blocks: WorkBlocks[int, int] = WorkBlocks(rounds, size=2, ahead=9, describe=str)
    assert [open_block(blocks, ticket).items for ticket in range(2)] == [[0, 1], [2]]
    assert open_block(blocks, 2) is WAIT
    assert finish(blocks, 1, [2]) == []
    assert open_block(blocks, 2) is WAIT
    taken += finish(blocks, 0, [0, 1])
    assert open_block(blocks, 2).items == [3, 4]


def test_lists_are_ranked_one_by_one_after_two_losses_without_a_reply(blocks: Blocks) -> None:
    assert not lose(blocks).one_by_one
    blocks.answer(BeginCalls(block=0, attempt=1, requests=CALL))
    blocks.answer(KeepCalls(block=0, attempt=1, replies={"digest": Reply(finish="error", error="none")}))
    assert not open_block(blocks, 0, "third").one_by_one
    assert open_block(blocks, 0, "fourth").one_by_one
    assert (blocks.lost_workers, blocks.lost_calls) == (3, 1)


def test_a_list_that_loses_workers_alone_gets_no_more_calls(blocks: Blocks) -> None:
    for number in range(5):
        work = open_block(blocks, 0, f"worker {number}")
        if number >= 2:
            assert work.one_by_one
            blocks.answer(OpenItem(block=0, attempt=number, position=1))
        begun = blocks.answer(BeginCalls(block=0, attempt=number, requests=CALL))
        assert (begun.missing == ()) == (number == 4)
    assert begun.replies["digest"].finish == "error"
    blocks.answer(OpenItem(block=0, attempt=4, position=0))
    assert blocks.answer(BeginCalls(block=0, attempt=4, requests=CALL)).missing == ("digest",)


def test_a_list_that_loses_workers_even_so_ends_the_run(blocks: Blocks) -> None:
    with raises(BackendError, "q1"):
        for number in range(9):
            open_block(blocks, 0, f"worker {number}")
            blocks.answer(OpenItem(block=0, attempt=number, position=1))


def test_an_item_of_a_function_is_given_up_after_two_losses_alone() -> None:
    blocks: WorkBlocks[int, int] = WorkBlocks([[7, 8]], size=2, ahead=9, describe="number {}".format)
    for number in range(5):
        if open_block(blocks, 0, f"worker {number}").one_by_one:
            refusal = blocks.answer(OpenItem(block=0, attempt=number, position=1))
            assert ("number 8" in refusal) == (number == 4)
    assert blocks.answer(OpenItem(block=0, attempt=4, position=0)) == ""


def test_a_model_that_ends_its_workers_while_it_is_opened_ends_the_run(blocks: Blocks) -> None:
    for _ in range(3):
        blocks.answer(OpenModel(ticket=0))
    open_block(blocks, 0)
    for _ in range(4):
        blocks.answer(OpenModel(ticket=0))
        blocks.answer(OpenModel(ticket=1))
    assert blocks.lost_workers == 2 + 3 + 3
    with raises(BackendError, "--workers", "--engine local"):
        blocks.answer(OpenModel(ticket=0))


def test_silent_workers_are_overdue_unless_they_wait(blocks: Blocks) -> None:
    open_block(blocks, 0, "busy")
    for ticket in (1, 2):
        open_block(blocks, ticket, "waits")
        finish(blocks, ticket)
    assert open_block(blocks, 3, "waits") is WAIT
    assert blocks.overdue_workers(1000) == []
    assert blocks.overdue_workers(-1) == ["busy"]
    assert blocks.overdue_workers(-1) == []


def test_a_worker_that_outlives_its_loss_changes_nothing(blocks: Blocks) -> None:
    begun = lose(blocks)
    assert begun.attempt == 1
    for message in (
        KeepCalls(block=0, replies={"digest": Reply(text="late")}),
        FinishBlock(block=0, results=["late"]),
        Fail(block=0, error=BackendError("its exchange is gone")),
    ):
        assert blocks.answer(message) is None
    assert list(blocks.take_results()) == []
    assert blocks.answer(BeginCalls(block=0, attempt=1, requests=CALL)).missing == ("digest",)
    blocks.answer(KeepCalls(block=0, attempt=1, replies={"digest": Reply(text="second")}))
    blocks.answer(FinishBlock(block=0, attempt=1, results=["q0", "q1"]))
    assert [str(result) for result in blocks.take_results()] == ["q0", "q1"]
    assert not blocks.has_calls_in_flight()


def test_no_calls_begin_beside_an_error(blocks: Blocks) -> None:
    open_block(blocks, 0), open_block(blocks, 1)
    with pytest.raises(BackendError):
        blocks.answer_all({0: BeginCalls(block=0, requests=CALL), 1: Fail(block=1, error=BackendError("no model"))})
    assert not blocks.has_calls_in_flight()


def test_errors_of_workers_are_raised(blocks: Blocks) -> None:
    open_block(blocks, 0)
    blocks.answer(BeginCalls(block=0, requests=CALL))
    assert blocks.has_calls_in_flight()
    with pytest.raises(BackendError):
        blocks.answer(Fail(block=0, error=BackendError("no model")))
    assert not blocks.has_calls_in_flight()


class TalkingPool(WorkerPool):
    """A pool with one worker that finishes a block every few milliseconds, and one that hangs in its first block."""

    def __init__(self, ended: threading.Event) -> None:
        super().__init__(None, SimpleNamespace(iter_batches=lambda **options: iter([ended.wait()])))
        self._numbers = iter(range(10_000))

    def _exchange_messages(self, answers: Mapping[int, Any]) -> dict[int, Any]:
        number = next(self._numbers)
        if not number:
            return {number: OpenBlock(ticket=0, worker="hangs")}
        time.sleep(0.005)
        finished = FinishBlock(block=answers[number - 1].block, results=[number]) if number % 2 == 0 else None
        return {number: finished or OpenBlock(ticket=1, worker="talks")}


@pytest.fixture
def ended() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_worker_that_hangs_is_restarted_although_others_send_messages(
    monkeypatch: pytest.MonkeyPatch, ended: threading.Event
) -> None:
    killed: list[str] = []

    def kill(worker: str, *, no_restart: bool) -> None:
        killed.append(worker)
        ended.set()

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(kill=kill))
    blocks: WorkBlocks[int, int] = WorkBlocks([range(1000)], size=1, ahead=1000, describe=str)
    assert list(TalkingPool(ended).serve(blocks, 0.1)) == []
    assert killed == ["hangs"]
