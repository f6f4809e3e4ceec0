"""The engine ``ray``: actors of Ray rank blocks of lists, on one machine or on many.

Ray Data hands the numbers of the blocks to a pool of actors (`worker.RankingWorker`), restarts lost actors and repeats
their tasks. The actors fetch the lists of a block, and send their calls and results to this process through an actor
that exchanges messages. This process alone writes to the run folder. A worker waits until its calls are committed, and
no block is read that is too far ahead of the oldest unfinished one, so a slow disk slows the workers down.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from rerank.engines.base import RankingJob
from rerank.engines.ray.blocks import WAIT, RankingBlocks
from rerank.engines.ray.exchange import MessageExchange
from rerank.engines.ray.messages import BlockMessage, KeepCalls
from rerank.errors import BackendError, MissingPrerequisiteError, RerankError, UsageError
from rerank.pipeline.results import RankedList
from rerank.store import LoggingBackend
from rerank.store.call_desk import CallDesk
from rerank.tasks import AsyncBackend, Backend
from rerank.types import Ranking

#: Blocks that may be open per worker: one is ranked, and the others wait for their turn or for an older block.
_BLOCKS_PER_WORKER = 3
#: Number of blocks per worker into which lists for a server are divided, whose results do not depend on blocks.
_SHARES = 4
#: Maximum number of messages of workers that wait for an answer.
_MESSAGES = 100_000
#: Seconds between checks of the pool and of the workers' deadline, and for replies in flight after an error.
_CHECK, _LAST_REPLIES = 1.0, 60.0


@dataclass(slots=True)
class Ray:
    """Rank on a cluster of Ray, which is started on this machine if no address is given.

    Attributes:
        address: Address of the cluster's head, HOST:PORT, or ``auto``; empty to start one, or to use the one to which
            this process is connected already.
        workers: Number of workers; each opens the model once.
        gpus_per_worker: Number of GPUs per worker; a fraction lets workers share one.
        worker_timeout: Seconds after which a worker that has not handed over a reply is restarted; None for no limit.

    Raises:
        UsageError: A number is out of range.
    """

    address: str = ""
    _: KW_ONLY
    workers: int = 1
    gpus_per_worker: float = 0.0
    worker_timeout: float | None = None
    _started: bool = field(default=False, init=False)
    _losses: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Check the numbers."""
        timeout = self.worker_timeout
        if self.workers < 1 or not 0 <= self.gpus_per_worker < math.inf or (timeout is not None and not timeout > 0):
            raise UsageError(
                f"workers={self.workers}, gpus_per_worker={self.gpus_per_worker}, worker_timeout={timeout}",
                expected="at least 1 worker, at least 0 GPUs, and more than 0 seconds",
            )

    def start(self, backend: Backend) -> None:
        """Connect to the cluster or start one; the model is opened by the workers, not here.

        Raises:
            MissingPrerequisiteError: Ray is not installed.
            BackendError: The cluster cannot be reached.
            UsageError: It has too few processors or GPUs.
        """
        ray = _import_ray()
        if not ray.is_initialized():
            self._connect(ray)
        has, needs = ray.cluster_resources(), {"CPU": self.workers, "GPU": self.workers * self.gpus_per_worker}
        for kind, number in needs.items():
            if has.get(kind, 0) < number:
                self._disconnect(ray)
                raise UsageError(
                    f"{self.workers} workers need {number:g} {kind}s, and the cluster has {has.get(kind, 0):g}",
                    remedy="Use fewer --workers, or add machines to the cluster",
                )

    def rank(self, lists: Iterable[Ranking], job: RankingJob, calls: LoggingBackend) -> Iterator[RankedList]:
        """Rerank lists, and yield the results in the order of the lists.

        Raises:
            RerankError: A list cannot be ranked, or the model cannot answer at all; committed calls are kept.
            BackendError: The pool of workers failed.
        """
        ray, size = _import_ray(), self._block_size(job)
        blocks = RankingBlocks(
            lists, CallDesk(calls), size=size, ahead=_BLOCKS_PER_WORKER * self.workers, share=ray.put
        )
        try:
            with self._run_workers(job, math.ceil(job.queries / size)) as pool:
                yield from pool.serve(blocks, self.worker_timeout)
            blocks.read_to_end()
        finally:
            self._losses = {"lost_workers": blocks.lost_workers, "repeated_calls": blocks.lost_calls}
            self._disconnect(ray)

    def record(self) -> Mapping[str, Any]:
        """Return the name, the number of workers, and how many were lost with how many calls in flight."""
        return {"name": "ray", "workers": self.workers, "gpus_per_worker": self.gpus_per_worker, **self._losses}

    def _connect(self, ray: Any) -> None:
        # Importing ray sets these levels. Its news of the execution would be mixed with the progress bar.
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # Workers wait for the model most of the time, so there may be more of them than processors.
        local: dict[str, Any] = {"num_cpus": self.workers, "include_dashboard": False}
        try:
            ray.init(**({"address": self.address} if self.address else local), logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"No cluster of Ray can be reached at {self.address or 'this machine'!r}: {error}",
                expected="the address of a head node that `ray start --head` prints, such as 10.0.0.1:6379",
                remedy="Start this command on a machine of the cluster, or omit the address",
            ) from error
        self._started = True

    def _disconnect(self, ray: Any) -> None:
        """End the cluster, or the connection to it, if `start` made it."""
        if self._started:
            ray.shutdown()
        self._started = False

    def _block_size(self, job: RankingJob) -> int:
        """Return the number of lists per block, which is that of a run in one process if results depend on it."""
        largest = job.flow.block or job.queries
        if isinstance(job.judge.backend, AsyncBackend):
            largest = min(largest, math.ceil(job.queries / (_SHARES * self.workers)))
        return max(1, largest)

    @contextmanager
    def _run_workers(self, job: RankingJob, blocks: int) -> Iterator[_WorkerPool]:
        """Run the workers on all blocks, and end them with the block of the ``with`` statement."""
        import ray.data
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from rerank.engines.ray.worker import RankingWorker, WorkerJob

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        exchange_type = ray.remote(num_cpus=0, max_concurrency=_MESSAGES, scheduling_strategy=here)(MessageExchange)
        exchange = exchange_type.remote(
            WorkerJob(
                setup=job.setup,
                top_k=job.top_k,
                flow=job.flow,
                qrels=job.qrels,
                identity=dict(job.judge.backend.identity),
                folder=Path.cwd(),
            )
        )
        dataset = ray.data.from_items(list(range(blocks)), override_num_blocks=max(1, blocks)).map_batches(
            RankingWorker,
            fn_constructor_args=(exchange,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, max(1, blocks)), max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            num_gpus=self.gpus_per_worker,
        )
        dataset.context.enable_progress_bars = False
        dataset.context.print_on_execution_start = False
        pool = _WorkerPool(exchange, dataset)
        try:
            yield pool
        finally:
            pool.end()


class _WorkerPool:
    """The workers of a run, while Ray Data hands block numbers to them.

    Args:
        exchange: Handle of the exchange.
        dataset: The dataset whose execution ranks all blocks.
    """

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

    def serve(self, blocks: RankingBlocks, timeout: float | None) -> Iterator[RankedList]:
        """Answer the messages of the workers, and yield results, until all blocks are ranked.

        Args:
            blocks: The blocks.
            timeout: Seconds after which a silent worker is restarted; None for no limit.

        Raises:
            BackendError: The pool failed, for example since the cluster is gone.
        """
        import ray

        waiting: dict[int, BlockMessage] = {}
        answers: dict[int, Any] = {}
        while self._thread.is_alive():
            if (messages := self._exchange_messages(answers)) is None:
                for worker in [] if timeout is None else blocks.overdue_workers(timeout):
                    ray.kill(worker, no_restart=False)
                continue
            waiting |= messages
            try:
                answers = _answer_messages(blocks, waiting)
            except Exception:
                self._keep_replies_in_flight(blocks)
                raise
            waiting = {number: message for number, message in waiting.items() if number not in answers}
            yield from blocks.take_results()
        if self._error is not None:
            raise self._failed(self._error) from self._error

    def _exchange_messages(self, answers: Mapping[int, Any]) -> dict[int, BlockMessage] | None:
        """Send answers, and return the next messages; None if there are none yet: call it again with these answers."""
        import ray

        self._request = self._request or self._exchange.serve.remote(answers)
        try:
            messages: dict[int, BlockMessage] = ray.get(self._request, timeout=_CHECK)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayError as error:
            raise self._failed(error) from error
        self._request = None
        return messages

    def _keep_replies_in_flight(self, blocks: RankingBlocks) -> None:
        """After an error, commit the replies that other workers are waiting for, since they may be billed."""
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + _LAST_REPLIES
        with suppress(RerankError):  # the first error is the one to report
            while blocks.has_calls_in_flight() and time.monotonic() < deadline:
                messages = self._exchange_messages(answers)
                if messages is not None:
                    kept = {n: message for n, message in messages.items() if isinstance(message, KeepCalls)}
                    answers = _answer_messages(blocks, kept)

    def _failed(self, error: Exception) -> BackendError:
        return BackendError(
            f"The workers of Ray ended before all queries were ranked: {error}",
            remedy="Committed calls are kept; continue with --resume",
        )

    def end(self) -> None:
        """End the exchange and with it the execution; workers find out at their next message."""
        import ray

        with suppress(Exception):  # the cluster may be gone
            ray.kill(self._exchange)
        self._thread.join(timeout=10)


def _answer_messages(blocks: RankingBlocks, messages: Mapping[int, BlockMessage]) -> dict[int, Any]:
    """Return the answers to those messages that need not wait; replies are committed before anything can fail."""
    replies_first = sorted(messages, key=lambda number: not isinstance(messages[number], KeepCalls))
    answers = {number: blocks.answer(messages[number]) for number in replies_first}
    return {number: answer for number, answer in answers.items() if answer is not WAIT}


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"The engine 'ray' needs Ray, which cannot be imported: {error}", remedy="Run: pip install 'listrank[ray]'"
        ) from error
    return ray
