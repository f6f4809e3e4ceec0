"""A worker thread that runs the rankings of many callers on one local model.

Callers submit rankings at any time. On a CPU, prefill is compute-bound, so one batch with the requests of two callers
takes as long as two batches; therefore, callers take turns, batch by batch. If the backend reports that sharing batches
saves time (a GPU, vLLM), batches are formed from the requests of all callers in order of arrival.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from rerank.errors import UsageError
from rerank.io.forks import watch_forks
from rerank.pipeline.driver import Driver, ListOptions
from rerank.pipeline.results import RankedList
from rerank.tasks import Backend
from rerank.tasks.backends import traits
from rerank.types import Ranking

#: Seconds without work after which the thread ends; the next ranking starts a new thread.
_IDLE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """A ranking that a caller has submitted, with the future through which the caller receives the result."""

    ranking: Ranking
    options: ListOptions
    future: Future[RankedList]


@dataclass(eq=False, slots=True)
class _Lane:
    """Rankings whose requests may share batches: their driver, and a mapping from the driver's keys to the jobs."""

    driver: Driver
    jobs: dict[int, _Job] = field(default_factory=dict)


class LocalService:
    """A service that runs the rankings of many callers on one local model.

    Args:
        backend: Backend that answers the requests; its attribute ``shares_batches`` states whether batches that several
            callers share save time.
    """

    def __init__(self, make_driver: Callable[[], Driver], backend: Backend, *, batch_size: int) -> None:
        self._make_driver, self._backend, self._batch_size = make_driver, backend, batch_size
        self._shares = traits(backend).shares_batches
        self._submitted: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        watch_forks(self)

    def submit(self, ranking: Ranking, options: ListOptions | None = None) -> Future[RankedList]:
        """Add a ranking, and return the future of its result.

        If the future is cancelled, the ranking is dropped before the next batch.
        """
        job = _Job(ranking=ranking, options=options or ListOptions(), future=Future())
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
        lanes: deque[_Lane] = deque()
        while True:
            with self._changed:
                if not lanes and not self._submitted and not self._is_closed:
                    self._changed.wait(_IDLE)
                jobs, self._submitted = self._submitted, deque()
                if self._is_closed or not (lanes or jobs):
                    self._thread = None
                    break
            for job in jobs:
                self._start(job, lanes)
            if lanes:
                self._run_batch(lanes)
            for lane in list(lanes):
                self._end_jobs(lane)
                if not lane.jobs:
                    lanes.remove(lane)
        for job in [*jobs, *(job for lane in lanes for job in lane.jobs.values())]:
            job.future.cancel()

    def _start(self, job: _Job, lanes: deque[_Lane]) -> None:
        try:
            lane = lanes[0] if self._shares and lanes else _Lane(self._make_driver())
            lane.jobs[lane.driver.add(job.ranking, job.options)] = job
        except Exception as error:  # noqa: BLE001 - the thread must continue to serve other callers
            _resolve(job.future, error)
            return
        if lane not in lanes:
            lanes.append(lane)

    def _run_batch(self, lanes: deque[_Lane]) -> None:
        """Run one batch of the first lane in the queue, and move this lane to the end, so that lanes take turns."""
        lane = lanes.popleft()
        lanes.append(lane)
        try:
            tickets = lane.driver.next_requests(self._batch_size)
            self._drop_ended(lane)  # the deadline of a ranking may have passed while its prompts were rendered
            if tickets := [ticket for ticket in tickets if not ticket.is_closed]:
                replies = self._backend.generate([ticket.request for ticket in tickets])
                for ticket, reply in zip(tickets, replies, strict=True):
                    lane.driver.put(ticket, reply)
        except Exception as error:  # noqa: BLE001 - every caller of the lane must receive a result or an error
            self._fail_jobs(lane, error)

    def _end_jobs(self, lane: _Lane) -> None:
        """Drop cancelled rankings, end rankings whose deadline has passed, and deliver the results of finished ones."""
        try:
            self._drop_ended(lane)
            for key, result in lane.driver.finished():
                if job := lane.jobs.pop(key, None):
                    _resolve(job.future, result)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail_jobs(lane, error)

    def _fail_jobs(self, lane: _Lane, error: Exception) -> None:
        for job in lane.jobs.values():
            _resolve(job.future, error)
        lane.jobs.clear()

    def _drop_ended(self, lane: _Lane) -> None:
        """Drop rankings that were cancelled, and end rankings whose deadline has passed."""
        now = time.monotonic()
        for key, job in list(lane.jobs.items()):
            if job.future.cancelled():
                lane.driver.discard(key)
                del lane.jobs[key]
            elif job.options.deadline is not None and now >= job.options.deadline:
                lane.driver.expire(key)


def _resolve(future: Future[RankedList], result: RankedList | Exception) -> None:
    """Set the result or the error of a future, unless its caller has cancelled it."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(result, RankedList):
        future.set_result(result)
    else:
        future.set_exception(result)
