"""The engine ``ray``, in which actors of Ray process blocks of lists or other items, on one or many machines.

Ray Data runs one task in each actor of a pool (`worker.BlockWorker`), restarts lost actors and repeats their tasks. A
task fetches one block after the other, and sends calls and results to this process through an actor that exchanges
messages. Only this process writes to the run folder. A worker waits until its calls are committed, and no block is read
that is too far ahead of the oldest unfinished block, so workers do not run ahead of a slow disk.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rerank.engines import RankingJob
from rerank.engines.ray.blocks import KeepCalls, WorkBlocks
from rerank.errors import BackendError, MissingPrerequisiteError, RerankError, UsageError
from rerank.installation import install_command
from rerank.pipeline.results import RankedList
from rerank.store import LoggingBackend
from rerank.store.logging_backend import CallDesk
from rerank.tasks import AsyncBackend, Backend
from rerank.tasks.backends import traits
from rerank.tasks.worker_map import WorkerFunction, WorkerMap
from rerank.types import Ranking

if TYPE_CHECKING:
    from rerank.engines.ray.worker import WorkerJob

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Maximum number of open blocks per worker: one is processed, and the others wait for their turn or an older block.
_BLOCKS_PER_WORKER = 3
#: Number of blocks per worker into which lists are divided for a model behind a network, whose results do not depend on
#: blocks.
_SHARES = 4
#: Seconds in which the head node of a cluster must accept a connection.
_CONNECT_SECONDS = 10.0
#: Maximum number of messages of workers that wait for an answer.
_MESSAGES = 100_000


@dataclass(slots=True)
class Ray:
    """An engine that ranks on a Ray cluster, which is started on this machine if no address is given."""

    #: Address of the cluster's head node, ``HOST:PORT``, or ``auto``; empty to use the cluster to which this process is
    #: already connected, or else to start a cluster.
    address: str = ""
    _: KW_ONLY
    workers: int = 1  # number of workers, each of which opens the model once
    #: Number of GPUs per worker; with a fraction, several workers share a GPU. None for as many as the model needs, if
    #: the cluster has any.
    gpus_per_worker: float | None = None
    #: Seconds after which a worker that has sent no message is restarted; None for no limit.
    worker_timeout: float | None = None
    _gpus: float = field(default=0.0, init=False)
    _started: bool = field(default=False, init=False)
    _losses: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        timeout = self.worker_timeout
        if (
            self.workers < 1
            or not 0 <= (self.gpus_per_worker or 0) < math.inf
            or (timeout is not None and not timeout > 0)
        ):
            raise UsageError(
                f"The engine 'ray' has workers={self.workers}, gpus_per_worker={self.gpus_per_worker}, "
                f"worker_timeout={timeout}",
                expected="at least 1 worker, at least 0 GPUs, and more than 0 seconds",
            )

    def start(self, backend: Backend | None) -> None:
        ray = _load_library()
        if not ray.is_initialized():
            self._connect(ray)
        has = ray.cluster_resources()
        self._gpus = self.gpus_per_worker or 0
        if self.gpus_per_worker is None and has.get("GPU"):  # without a backend, workers open the encoder of an index
            self._gpus = 1 if backend is None else traits(backend).gpus
        for kind, each in {"CPU": 1, "GPU": self._gpus}.items():
            if (found := has.get(kind, 0)) < self.workers * each:
                self.close()
                possible = [f"--workers {int(found // each)}"] if found >= each else []
                if kind == "GPU" and each <= 1:  # several workers can share a GPU
                    share = math.floor(100 / math.ceil(self.workers / found)) / 100 if found else 0
                    possible += [f"--gpus-per-worker {share:g}"] if share or not found else []
                raise UsageError(
                    f"The cluster has {found:g} {kind}s",
                    expected=f"at least {self.workers * each:g}: --workers {self.workers}, {each:g} for each",
                    remedy=f"Use {' or '.join(possible) or 'fewer GPUs per worker'}, or add machines to the cluster",
                )

        if self._gpus > 1:  # a worker is on one machine
            counts = [node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]]
            if (places := sum(int(count // self._gpus) for count in counts)) < self.workers:
                self.close()
                raise UsageError(
                    f"The machines of the cluster have {', '.join(f'{count:g}' for count in counts)} GPUs",
                    expected=f"{self._gpus:g} on one machine for each of {self.workers} workers",
                    remedy=f"Use --workers {places}" if places else "Split the model over fewer GPUs",
                )

    def rank(self, lists: Iterable[Ranking], job: RankingJob, calls: LoggingBackend) -> Iterator[RankedList]:
        ray = _load_library()
        size = job.flow.block or job.queries  # if results depend on blocks, they are those of a run in one process
        backend = job.judge.backend
        if isinstance(backend, AsyncBackend) and not traits(backend).schedules_requests:
            size = min(size, math.ceil(job.queries / (_SHARES * self.workers)))
        size = max(1, size)
        from rerank.engines.ray.worker import RankLists

        work = RankLists(setup=job.setup, flow=job.flow, qrels=job.qrels, identity=dict(job.judge.backend.identity))
        blocks: WorkBlocks[Ranking, RankedList] = WorkBlocks(
            [lists],
            size=size,
            ahead=_BLOCKS_PER_WORKER * self.workers,
            share=ray.put,
            describe=lambda ranking: f"query {ranking.query.id!r}",
            desk=CallDesk(calls),
        )
        try:
            yield from self._process(work, blocks, math.ceil(job.queries / size))
            blocks.read_to_end()
        finally:
            self._losses = {"lost_workers": blocks.lost_workers, "repeated_calls": blocks.lost_calls}

    def worker_map(self) -> WorkerMap:
        """Return a function that applies a given function to items in the workers.

        Each time it is called, every worker opens the given function once, for example to load its model.
        """
        return self._map

    def close(self) -> None:
        if self._started:
            _load_library().shutdown()
        self._started = False

    def _map(
        self, function: WorkerFunction[Item, Result], rounds: Iterable[Iterable[Item]], *, count: int, together: int = 1
    ) -> Iterator[Result]:
        ray = _load_library()
        from rerank.engines.ray.worker import ApplyFunction

        blocks: WorkBlocks[Item, Result] = WorkBlocks(
            rounds, size=together, ahead=_BLOCKS_PER_WORKER * self.workers, share=ray.put, describe=function.describe
        )
        if count:
            yield from self._process(ApplyFunction(function), blocks, count)

    def record(self) -> Mapping[str, Any]:
        """Return the engine's name, its workers and GPUs, and the numbers of lost workers and repeated calls."""
        return {"name": "ray", "workers": self.workers, "gpus_per_worker": self._gpus, **self._losses}

    def _connect(self, ray: Any) -> None:
        # Importing ray resets these levels. Messages about the execution would be mixed with the progress bar.
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Workers wait for the model most of the time, so there may be more workers than processors.
        local: dict[str, Any] = {"num_cpus": self.workers, "include_dashboard": False}
        host, _, port = self.address.rpartition(":")
        try:
            if host and "/" not in self.address and port.isdecimal():  # connect once: Ray would try again for minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
            ray.init(**({"address": self.address} if self.address else local), logging_level=logging.ERROR)
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"No Ray cluster can be reached at {self.address or 'this machine'!r}: {error}",
                expected="the address of a head node that `ray start --head` prints, such as 10.0.0.1:6379",
                remedy="Start this command on a machine of the cluster, or omit the address",
            ) from error
        self._started = True

    def _process(self, job: WorkerJob, blocks: WorkBlocks[Any, Result], count: int) -> Iterator[Result]:
        """Process all blocks with at most ``count`` workers, and yield the results."""
        workers = min(self.workers, max(1, count))
        import ray.data
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from rerank.engines.ray.worker import BlockWorker

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote: Any = ray.remote  # its types do not know this option of actors
        exchange_type = remote(num_cpus=0, max_concurrency=_MESSAGES, scheduling_strategy=here)(MessageExchange)
        exchange = exchange_type.remote(job)
        dataset = ray.data.from_items(list(range(workers)), override_num_blocks=workers).map_batches(
            BlockWorker,
            fn_constructor_args=(exchange, Path.cwd()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=self._gpus,
        )
        dataset.context.enable_progress_bars = False
        dataset.context.print_on_execution_start = False
        pool = WorkerPool(exchange, dataset)
        try:
            yield from pool.serve(blocks, self.worker_timeout)
        finally:
            pool.end()


def _load_library() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"The engine 'ray' needs Ray, which cannot be imported: {error}", remedy=f"Run: {install_command('ray')}"
        ) from error
    return ray


class MessageExchange:
    """A Ray actor that passes messages of workers to the owner of the run folder, and the answers back."""

    def __init__(self, job: Any) -> None:
        self._job = job
        self._messages: dict[int, Any] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._has_messages = asyncio.Event()

    async def job(self) -> Any:
        return self._job

    async def ask(self, message: Any) -> Any:
        self._count += 1
        number = self._count
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._messages[number] = message
        self._has_messages.set()
        return await answer

    async def serve(self, answers: Mapping[int, Any]) -> dict[int, Any]:
        """Pass answers on to the workers, wait for the next messages, and return these, by message number.

        After `wake`, the returned mapping may be empty.
        """
        for number, answer in answers.items():
            self._answers.pop(number).set_result(answer)
        await self._has_messages.wait()
        self._has_messages.clear()
        messages, self._messages = self._messages, {}
        return messages

    async def wake(self) -> None:
        """Let `serve` return even if there are no messages."""
        self._has_messages.set()


#: Seconds between checks of the pool and its workers, and seconds to wait for replies in flight after an error.
_CHECK, _LAST_REPLIES = 1.0, 60.0


class WorkerPool:
    """The running workers of an engine."""

    def __init__(self, exchange: Any, dataset: Any) -> None:
        self._exchange, self._dataset = exchange, dataset
        self._error: Exception | None = None
        self._request: Any = None
        self._thread = threading.Thread(target=self._execute, name="rerank-ray-data", daemon=True)
        self._thread.start()

    def _execute(self) -> None:
        try:
            for _ in self._dataset.iter_batches(batch_size=None, prefetch_batches=0):
                pass
        except Exception as error:  # noqa: BLE001 - raised by the thread that serves the workers
            self._error = error
        with suppress(Exception):  # the cluster may be gone
            self._exchange.wake.remote()

    def serve(self, blocks: WorkBlocks[Any, Result], timeout: float | None) -> Iterator[Result]:
        """Answer the messages of the workers, and yield results, until all blocks are processed.

        A worker that has sent no message for ``timeout`` seconds is restarted.
        """
        import ray

        waiting: dict[int, Any] = {}
        answers: dict[int, Any] = {}
        while self._thread.is_alive():
            messages, received = self._exchange_messages(answers), time.monotonic()
            if messages is not None:
                waiting |= messages
                answers = {}
                has_results = True
                while has_results:  # the items of the next blocks may depend on results that the caller has taken
                    answers |= self._answer(blocks, waiting)
                    waiting = {number: message for number, message in waiting.items() if number not in answers}
                    has_results = False
                    for result in blocks.take_results():
                        has_results = True
                        yield result
            if timeout is not None:
                # messages may have arrived since the last exchange, so only the silence before it counts
                for worker in blocks.overdue_workers(timeout + time.monotonic() - received):
                    ray.kill(worker, no_restart=False)
        if self._error is not None:
            raise self._failed(self._error) from self._error

    def _answer(self, blocks: WorkBlocks[Any, Any], messages: Mapping[int, Any]) -> dict[int, Any]:
        try:
            return blocks.answer_all(messages)
        except Exception:
            self._keep_replies_in_flight(blocks)
            raise

    def _exchange_messages(self, answers: Mapping[int, Any]) -> dict[int, Any] | None:
        """Send answers, and return the next messages; after None, call again with the same answers."""
        import ray

        self._request = self._request or self._exchange.serve.remote(answers)
        try:
            messages: dict[int, Any] = ray.get(self._request, timeout=_CHECK)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayError as error:
            raise self._failed(error) from error
        self._request = None
        return messages

    def _keep_replies_in_flight(self, blocks: WorkBlocks[Any, Any]) -> None:
        """After an error, wait for replies to other workers' calls in flight and commit them, as they may be billed."""
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + _LAST_REPLIES
        with suppress(RerankError):  # the first error is the one to report
            while blocks.has_calls_in_flight() and time.monotonic() < deadline:
                messages = self._exchange_messages(answers)
                if messages is not None:
                    kept = {n: message for n, message in messages.items() if isinstance(message, KeepCalls)}
                    answers = blocks.answer_all(kept)

    def _failed(self, error: Exception) -> BackendError:
        return BackendError(
            f"The workers of Ray ended before their work was finished: {error}",
            remedy="Committed calls are kept; repeat the command, and pass --resume to continue a run",
        )

    def end(self) -> None:
        import ray

        with suppress(Exception):  # the cluster may be gone
            ray.kill(self._exchange)
        self._thread.join(timeout=10)
