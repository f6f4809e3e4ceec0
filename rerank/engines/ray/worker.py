"""The worker, a Ray actor that opens a model and processes blocks of items, and its two jobs, ranking and mapping."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray

from rerank.assemble import RankerSetup
from rerank.engines.ray.blocks import (
    BeginCalls,
    BlockWork,
    Fail,
    FinishBlock,
    KeepCalls,
    OpenBlock,
    OpenItem,
    OpenModel,
)
from rerank.errors import BackendError
from rerank.pipeline.results import RankedList
from rerank.pipeline.stream import Flow, Ranker, drive_ranking_stream
from rerank.store.logging_backend import BegunCalls, log_calls_at_desk
from rerank.tasks import Backend, Reply, Request
from rerank.tasks.worker_map import WorkerFunction, check_worker_model
from rerank.types import Qrels, Ranking

#: Function that processes a block. Its arguments are the items, whether to process them one by one, and the connection
#: of the worker for this block; it returns one result per item.
ProcessBlock = Callable[[Sequence[Any], bool, "BlockDesk"], Iterable[Any]]


class WorkerJob(Protocol):
    """Protocol of the work that workers do with blocks. A job must be picklable."""

    def open(self) -> ProcessBlock:
        """Open the model, and return the function that processes a block."""


@dataclass(frozen=True, kw_only=True)
class RankLists:
    """A job that reranks lists; the process that owns the run folder looks up and commits the calls in its log."""

    setup: RankerSetup  # the ranker's settings (strategy, judge, passages), from which the worker opens its judge
    flow: Flow  # limits on how many lists are processed concurrently, and how many requests form a batch
    qrels: Qrels | None  # relevance judgments that ``fake:perfect`` reads; None if there are none
    #: Identity of the model in the process that owns the run folder; the worker's model must have the same.
    identity: Mapping[str, str]

    def open(self) -> ProcessBlock:
        backend = self.setup.open_backend(qrels=self.qrels)
        check_worker_model(backend.identity, self.identity)
        self.flow.apply_to(backend)
        return partial(self._rank, self.setup.ranker(self.setup.open_judge(backend)), backend)

    def _rank(
        self, ranker: Ranker, backend: Backend, lists: Sequence[Ranking], one_by_one: bool, desk: BlockDesk
    ) -> Iterator[RankedList]:
        logged = log_calls_at_desk(backend, desk, batch_characters=self.flow.batch_characters)
        if not one_by_one:
            yield from drive_ranking_stream(lists, ranker, logged, replace(self.flow, block=None))
            return
        for position, ranking in enumerate(lists):
            desk.announce(position)
            yield from drive_ranking_stream([ranking], ranker, logged, self.flow)


@dataclass(frozen=True)
class ApplyFunction:
    """A job that applies a function to each item."""

    function: WorkerFunction[Any, Any]  # the function, which loads its model when it is opened

    def open(self) -> ProcessBlock:
        return partial(self._apply, self.function.open())

    def _apply(
        self, apply: Callable[[Any], Any], items: Sequence[Any], one_by_one: bool, desk: BlockDesk
    ) -> Iterator[Any]:
        for position, item in enumerate(items):
            refusal = desk.announce(position) if one_by_one else ""
            yield self.function.give_up(item, refusal) if refusal else apply(item)


class BlockWorker:
    """A Ray actor that opens a job, sent by `rerank.engines.ray.MessageExchange`, and processes blocks."""

    def __init__(self, exchange: Any, folder: Path) -> None:
        """Store the handle; the model is opened before the first block, so that its errors are reported like others."""
        self._exchange, self._folder = exchange, folder
        self._process: ProcessBlock | None = None

    def _open(self, ticket: int) -> ProcessBlock:
        if self._process is None:
            _ask(self._exchange, OpenModel(ticket=ticket))  # so that losses while loading are counted
            with suppress(OSError):  # another machine may not have this folder, and does not need it for absolute paths
                os.chdir(self._folder)
            job: WorkerJob = ray.get(self._exchange.job.remote())
            self._process = job.open()
        return self._process

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Process blocks until there are no more, and send the results; return ``batch``, the number of the task."""
        desk = None
        try:
            ticket = int(batch["item"][0])
            process = self._open(ticket)
            question = OpenBlock(ticket=ticket, worker=ray.get_runtime_context().current_actor)
            while (work := _ask(self._exchange, question)) is not None:
                desk = BlockDesk(work, self._exchange)
                results = list(process(ray.get(work.items), work.one_by_one, desk))
                _ask(self._exchange, FinishBlock(**desk.place, results=results))
        except ray.exceptions.RayError:
            raise  # the work has ended, or Ray repeats the task
        except Exception as error:  # noqa: BLE001 - any error is raised in the process that started the workers
            _ask(self._exchange, Fail(**(desk.place if desk else {}), error=_picklable(error)))
        return batch


class BlockDesk:
    """The connection of a worker to the process that started it, for one block."""

    def __init__(self, work: BlockWork, exchange: Any) -> None:
        self.place = {"block": work.block, "attempt": work.attempt}
        self._exchange = exchange

    def announce(self, position: int) -> str:
        """Send the position of the next item, and return a reason for giving it up; empty to process it."""
        return _ask(self._exchange, OpenItem(**self.place, position=position)) or ""

    def begin(self, requests: Mapping[str, Request]) -> BegunCalls:
        begun: BegunCalls = _ask(self._exchange, BeginCalls(**self.place, requests=requests))
        return begun

    def keep(self, replies: Mapping[str, Reply]) -> None:
        _ask(self._exchange, KeepCalls(**self.place, replies=replies))

    async def abegin(self, requests: Mapping[str, Request]) -> BegunCalls:
        begun: BegunCalls = await self._exchange.ask.remote(BeginCalls(**self.place, requests=requests))
        return begun

    async def akeep(self, replies: Mapping[str, Reply]) -> None:
        await self._exchange.ask.remote(KeepCalls(**self.place, replies=replies))


def _ask(exchange: Any, message: Any) -> Any:
    """Send a message to the exchange, and return the answer after waiting for it."""
    return ray.get(exchange.ask.remote(message))


def _picklable(error: Exception) -> Exception:
    """Return the error or, if it cannot be pickled and unpickled, a `BackendError` with its description."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - errors of libraries may fail in any way
        return BackendError(f"A worker failed: {error!r}")
    return error
