"""The worker: a Ray actor with one model, which ranks blocks of lists."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ray

from rerank.assemble import RankerSetup
from rerank.engines.ray.messages import (
    BeginCalls,
    BlockWork,
    FailBlock,
    FinishBlock,
    KeepCalls,
    OpenBlock,
    OpenList,
)
from rerank.errors import BackendError
from rerank.pipeline.results import RankedList
from rerank.pipeline.stream import Flow, Ranker, drive_ranking_stream
from rerank.store.call_desk import BegunCalls, log_calls_at_desk
from rerank.tasks import Backend, Reply, Request
from rerank.types import Qrels, Ranking


@dataclass(frozen=True, kw_only=True)
class WorkerJob:
    """The part of a job that workers get; they open the model themselves.

    Attributes:
        setup: The ranker.
        top_k: Number of documents to rerank; None for all.
        flow: The number of lists and requests that are processed together.
        qrels: Relevance judgments that ``fake:perfect`` reads; None if there are none.
        identity: Identity of the model in the process that owns the run folder.
        folder: Working directory of that process, in which relative paths of models are looked up.
    """

    setup: RankerSetup
    top_k: int | None
    flow: Flow
    qrels: Qrels | None
    identity: Mapping[str, str]
    folder: Path

    def open(self) -> tuple[Ranker, Backend]:
        """Open the model.

        Raises:
            RerankError: The model cannot be opened.
            BackendError: It is not the model of the process that owns the run folder.
        """
        with suppress(OSError):  # another machine may not have this folder, and does not need it for absolute paths
            os.chdir(self.folder)
        setup = self.setup
        backend = setup.open_backend(qrels=self.qrels)
        if dict(backend.identity) != dict(self.identity):
            raise BackendError(
                f"A worker has opened another model: {dict(backend.identity)}",
                expected=str(dict(self.identity)),
                remedy="Use the same files on all machines, and give --dtype",
            )
        if (set_batching := getattr(backend, "set_batching", None)) is not None:
            set_batching(self.flow.batch_size, reuse=self.flow.reuse)
        judge = setup.open_judge(backend)
        return Ranker(strategy=setup.strategy, judge=judge, passages=setup.passages, top_k=self.top_k), backend


class RankingWorker:
    """A worker.

    Args:
        exchange: Handle of the `rerank.engines.ray.exchange.MessageExchange`, which has the `WorkerJob`.
    """

    def __init__(self, exchange: Any) -> None:
        """Store the handle; the model is opened with the first block, so that errors are reported like all others."""
        self._exchange = exchange

    @cached_property
    def _job(self) -> WorkerJob:
        job: WorkerJob = ray.get(self._exchange.job.remote())
        return job

    @cached_property
    def _opened(self) -> tuple[Ranker, Backend]:
        return self._job.open()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Rank the blocks whose numbers are in the batch, and return the batch; the results go to the exchange."""
        for number in batch["item"]:
            desk = _BlockDesk(int(number), self._exchange)
            try:
                self._rank(desk)
            except ray.exceptions.RayError:
                raise  # the run has ended, or Ray repeats the task
            except Exception as error:  # noqa: BLE001 - whatever it is, the owner of the run folder raises it
                desk.ask(FailBlock(block=desk.block, error=_picklable(error)))
        return batch

    def _rank(self, desk: _BlockDesk) -> None:
        ranker, backend = self._opened
        work = desk.ask(OpenBlock(block=desk.block, worker=ray.get_runtime_context().current_actor))
        if work is not None:
            logged = log_calls_at_desk(backend, desk, batch_characters=self._job.flow.batch_characters)
            results = list(_rank_lists(work, ranker, logged, self._job.flow, desk))
            desk.ask(FinishBlock(block=desk.block, results=results))


def _rank_lists(
    work: BlockWork, ranker: Ranker, backend: Backend, flow: Flow, desk: _BlockDesk
) -> Iterator[RankedList]:
    lists: list[Ranking] = ray.get(work.lists)
    if not work.one_by_one:
        yield from drive_ranking_stream(lists, ranker, backend, replace(flow, block=None))
        return
    for position, ranking in enumerate(lists):
        desk.ask(OpenList(block=desk.block, position=position))
        yield from drive_ranking_stream([ranking], ranker, backend, flow)


class _BlockDesk:
    """The connection of a worker to the owner of the run folder, for one block.

    Args:
        block: Number of the block.
        exchange: Handle of the exchange.
    """

    def __init__(self, block: int, exchange: Any) -> None:
        self.block, self._exchange = block, exchange

    def ask(self, message: Any) -> Any:
        return ray.get(self._exchange.ask.remote(message))

    def begin(self, requests: Mapping[str, Request]) -> BegunCalls:
        begun: BegunCalls = self.ask(BeginCalls(block=self.block, requests=requests))
        return begun

    def keep(self, replies: Mapping[str, Reply]) -> None:
        self.ask(KeepCalls(block=self.block, replies=replies))

    async def abegin(self, requests: Mapping[str, Request]) -> BegunCalls:
        begun: BegunCalls = await self._exchange.ask.remote(BeginCalls(block=self.block, requests=requests))
        return begun

    async def akeep(self, replies: Mapping[str, Reply]) -> None:
        await self._exchange.ask.remote(KeepCalls(block=self.block, replies=replies))


def _picklable(error: Exception) -> Exception:
    """Return the error, or one with its message if another process could not read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - errors of libraries may fail in any way
        return BackendError(f"A worker failed: {error!r}")
    return error
