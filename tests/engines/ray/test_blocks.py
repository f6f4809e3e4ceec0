"""The blocks of a run: their order, their bounds, and what becomes of those of lost workers. Ray is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.engines.ray.blocks import WAIT, RankingBlocks
from rerank.engines.ray.messages import BeginCalls, FailBlock, FinishBlock, KeepCalls, OpenBlock, OpenList
from rerank.errors import BackendError
from rerank.pipeline.results import RankedList
from rerank.prompts.base import Message
from rerank.store import CallLog, LoggingBackend
from rerank.store.call_desk import CallDesk
from rerank.tasks import Reply, Request, Sampling
from rerank.types import Document, Query, Ranking
from tests.raising import raises

LISTS = [Ranking.from_order(Query(id=f"q{n}", text="x"), [Document(id="d", text="y")]) for n in range(9)]
CALL = {"digest": Request(prompt=(Message("user", "x"),), sampling=Sampling(max_tokens=1))}


@pytest.fixture
def read() -> list[Ranking]:
    """The lists that have been read."""
    return []


@pytest.fixture
def blocks(read: list[Ranking], tmp_path: Path) -> Iterator[RankingBlocks]:
    def lists() -> Iterator[Ranking]:
        for ranking in LISTS:
            read.append(ranking)
            yield ranking

    with CallLog(tmp_path / "calls.sqlite") as log:
        desk = CallDesk(LoggingBackend(backend=Fake("reversed"), log=log))
        yield RankingBlocks(lists(), desk, size=2, ahead=3)


def finish(blocks: RankingBlocks, number: int) -> list[str]:
    """Finish a block, and return the queries whose results can be taken."""
    lists = blocks.answer(OpenBlock(block=number)).lists
    blocks.answer(FinishBlock(block=number, results=[RankedList(ranking=ranking) for ranking in lists]))
    return [ranked.ranking.query.id for ranked in blocks.take_results()]


def lose(blocks: RankingBlocks, position: int | None = None) -> Any:
    """Open the first block, begin a call of a list, and lose the worker; return the answer to the next worker."""
    work = blocks.answer(OpenBlock(block=0, worker="old"))
    if work.one_by_one:
        blocks.answer(OpenList(block=0, position=position or 0))
    begun = blocks.answer(BeginCalls(block=0, requests=CALL))
    assert begun.missing == ("digest",)
    return blocks.answer(OpenBlock(block=0, worker="new"))


def test_results_are_yielded_in_order(blocks: RankingBlocks) -> None:
    assert finish(blocks, 1) == []
    assert finish(blocks, 0) == ["q0", "q1", "q2", "q3"]
    assert finish(blocks, 2) == ["q4", "q5"]


def test_no_block_is_read_that_is_too_far_ahead(blocks: RankingBlocks, read: list[Ranking]) -> None:
    blocks.answer(OpenBlock(block=0, worker="slow"))
    assert blocks.answer(OpenBlock(block=3, worker="fast")) is WAIT
    assert len(read) == 2
    assert blocks.answer(OpenBlock(block=2, worker="fast")) is not WAIT
    assert len(read) == 6
    blocks.answer(FinishBlock(block=0, results=[]))
    assert list(blocks.take_results()) == []
    blocks.answer(OpenBlock(block=1, worker="slow"))
    assert blocks.answer(OpenBlock(block=3, worker="fast")) is not WAIT
    assert len(read) == 8


def test_a_worker_does_not_wait_for_a_block_in_its_own_queue(blocks: RankingBlocks) -> None:
    blocks.answer(OpenBlock(block=0, worker="restarted"))
    assert blocks.answer(OpenBlock(block=3, worker="restarted")) is not WAIT
    blocks.answer(FinishBlock(block=0, results=[]))
    list(blocks.take_results())
    assert blocks.answer(OpenBlock(block=4, worker="restarted")) is not WAIT  # nobody has opened block 1


def test_a_finished_block_is_not_ranked_again(blocks: RankingBlocks) -> None:
    finish(blocks, 0)
    assert blocks.answer(OpenBlock(block=0)) is None
    assert blocks.answer(KeepCalls(block=0, replies={})) is None
    assert blocks.lost_workers == 0


def test_lists_are_ranked_one_by_one_after_two_losses_without_a_reply(blocks: RankingBlocks) -> None:
    assert not lose(blocks).one_by_one
    blocks.answer(BeginCalls(block=0, requests=CALL))
    blocks.answer(KeepCalls(block=0, replies={"digest": Reply(finish="error", error="none")}))
    assert not blocks.answer(OpenBlock(block=0, worker="third")).one_by_one
    assert blocks.answer(OpenBlock(block=0, worker="fourth")).one_by_one
    assert (blocks.lost_workers, blocks.lost_calls) == (3, 1)


def test_a_list_that_loses_workers_alone_gets_no_more_calls(blocks: RankingBlocks) -> None:
    for number in range(5):
        work = blocks.answer(OpenBlock(block=0, worker=number))
        if number >= 2:
            assert work.one_by_one
            blocks.answer(OpenList(block=0, position=1))
        begun = blocks.answer(BeginCalls(block=0, requests=CALL))
        assert (begun.missing == ()) == (number == 4)
    assert begun.replies["digest"].finish == "error"
    blocks.answer(OpenList(block=0, position=0))
    assert blocks.answer(BeginCalls(block=0, requests=CALL)).missing == ("digest",)


def test_a_list_that_loses_workers_even_so_ends_the_run(blocks: RankingBlocks) -> None:
    with raises(BackendError, "q1"):
        for number in range(9):
            blocks.answer(OpenBlock(block=0, worker=number))
            blocks.answer(OpenList(block=0, position=1))


def test_silent_workers_are_overdue_unless_they_wait(blocks: RankingBlocks) -> None:
    blocks.answer(OpenBlock(block=0, worker="busy"))
    assert blocks.answer(OpenBlock(block=4, worker="waits")) is WAIT
    assert blocks.overdue_workers(1000) == []
    assert blocks.overdue_workers(-1) == ["busy"]
    assert blocks.overdue_workers(-1) == []


def test_errors_of_workers_are_raised(blocks: RankingBlocks) -> None:
    blocks.answer(OpenBlock(block=0))
    blocks.answer(BeginCalls(block=0, requests=CALL))
    assert blocks.has_calls_in_flight()
    with pytest.raises(BackendError):
        blocks.answer(FailBlock(block=0, error=BackendError("no model")))
    assert not blocks.has_calls_in_flight()
