"""A worker thread that runs the rankings of many callers on one local model.

Callers submit rankings at any time. On a CPU, prefill is compute-bound, so one batch with the requests of two callers
takes as long as two batches; therefore, callers take turns, batch by batch. If the backend reports that sharing batches
saves time (a GPU), batches are formed from the requests of all callers in order of arrival.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from rerank.errors import UsageError
from rerank.io.forks import watch_forks
from rerank.pipeline.driver import Driver
from rerank.pipeline.results import RankedList
from rerank.strategies.base import Strategy
from rerank.tasks import Backend
from rerank.tasks.backends import traits
from rerank.tasks.interruption import CallInterruptedError, interruptible
from rerank.tasks.tracing import generate_traced
from rerank.types import Ranking

#: Seconds without work after which the thread ends; the next ranking starts a new thread.
_IDLE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """A ranking that a caller has submitted, with the future through which the caller receives the result."""

    ranking: Ranking
    strategy: Strategy | None  # None for the driver's strategy
    top_k: int | None
    deadline: float | None  # `time.monotonic` value at which the ranking ends; None for no deadline
    future: Future[RankedList]

    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


@dataclass(eq=False, slots=True)
class _Lane:
    """Rankings whose requests may share batches: their driver, and a mapping from the driver's keys to the jobs."""

    driver: Driver
    jobs: dict[int, _Job] = field(default_factory=dict)
    has_failed: bool = False  # whether the driver may hold what an error left behind


class LocalService:
    """A service that runs the rankings of many callers on one local model."""

    def __init__(self, make_driver: Callable[[], Driver], backend: Backend, *, batch_size: int) -> None:
        self._make_driver, self._backend, self._batch_size = make_driver, backend, batch_size
        self._shares = traits(backend).shares_batches
        self._submitted: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        watch_forks(self)

    def submit(
        self,
        ranking: Ranking,
        *,
        strategy: Strategy | None = None,
        top_k: int | None = None,
        deadline: float | None = None,
    ) -> Future[RankedList]:
        """Add a ranking, and return the future of its result; the arguments are those of `Driver.add` and a deadline.

        If the future is cancelled, the ranking is dropped before the next batch or step of the backend.
        """
        job = _Job(ranking=ranking, strategy=strategy, top_k=top_k, deadline=deadline, future=Future())
        with self._changed:
            if self._is_closed:
                raise UsageError("The reranker is closed", expected="an open reranker", remedy="Load a new reranker")
            self._submitted.append(job)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="rerank-service", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job.future

    def after_fork_in_child(self) -> None:
        self._submitted, self._changed, self._thread = deque(), threading.Condition(), None

    def close(self) -> None:
        """End the thread after its current batch; rankings that are not finished are cancelled."""
        with self._changed:
            self._is_closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        lanes: list[_Lane] = []
        spare: list[_Lane] = []  # lanes without rankings, for the next ones
        while True:
            with self._changed:
                if not lanes and not self._submitted and not self._is_closed:
                    self._changed.wait(_IDLE)
                jobs, self._submitted = self._submitted, deque()
                if self._is_closed or not (lanes or jobs):
                    self._thread = None
                    break
            for job in jobs:
                try:
                    if not (self._shares and lanes):
                        lanes.append(spare.pop() if spare else _Lane(self._make_driver()))
                    lane = lanes[0 if self._shares else -1]
                    lane.jobs[lane.driver.add(job.ranking, strategy=job.strategy, top_k=job.top_k)] = job
                except Exception as error:  # noqa: BLE001 - the thread must continue to serve other callers
                    _resolve(job.future, error)
            for lane in lanes:
                try:
                    if lane is lanes[0]:  # lanes take turns
                        tickets = lane.driver.next_requests(self._batch_size)
                        self._drop_ended(lane)  # a deadline may have passed while the prompts were rendered
                        if tickets := [ticket for ticket in tickets if not ticket.window.owner.closed]:
                            asked = [lane.jobs[ticket.window.owner.key] for ticket in tickets]
                            with suppress(CallInterruptedError), interruptible(partial(self._is_unwanted, asked)):
                                replies = generate_traced(self._backend, [(t.request, t.ranking) for t in tickets])
                                for ticket, reply in zip(tickets, replies, strict=True):
                                    lane.driver.put(ticket, reply)
                    self._drop_ended(lane)
                    for key, result in lane.driver.finished():
                        if ended := lane.jobs.pop(key, None):
                            _resolve(ended.future, result)
                except Exception as error:  # noqa: BLE001 - every caller of the lane must receive a result or an error
                    for job in lane.jobs.values():
                        _resolve(job.future, error)
                    lane.jobs.clear()
                    lane.has_failed = True
            spare += [lane for lane in lanes if not lane.jobs and not lane.has_failed]
            lanes = [lane for lane in (*lanes[1:], *lanes[:1]) if lane.jobs]
        for job in [*jobs, *(job for lane in lanes for job in lane.jobs.values())]:
            job.future.cancel()

    def _drop_ended(self, lane: _Lane) -> None:
        """Drop rankings that were cancelled, and end rankings whose deadline has passed."""
        for key, job in list(lane.jobs.items()):
            if job.future.cancelled():
                lane.driver.discard(key)
                del lane.jobs[key]
            elif job.is_late():
                lane.driver.expire(key)

    def _is_unwanted(self, jobs: Sequence[_Job]) -> bool:
        """Return whether no caller waits for the replies of a batch any more."""
        return self._is_closed or all(job.future.cancelled() or job.is_late() for job in jobs)


def _resolve(future: Future[RankedList], result: RankedList | Exception) -> None:
    """Set the result or the error of a future, unless its caller has cancelled it."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, RankedList):
        future.set_result(result)
    else:
        future.set_exception(result)
