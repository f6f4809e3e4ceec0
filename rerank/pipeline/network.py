"""Functions that run the driver with ``AsyncBackend.agenerate``, for models behind a network and engines like vLLM.

Rankings run on the background event loop of the process (`rerank.tasks.concurrency`), which owns the connections.
Every ranking is a coroutine. The backend limits the number of simultaneous requests over all rankings, so the next
request is sent as soon as any other request ends.
"""

import asyncio
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, cast

from rerank.pipeline.driver import Driver, Ticket
from rerank.pipeline.results import RankedList
from rerank.tasks import Reply
from rerank.tasks.concurrency import run_on_loop, submit_to_loop
from rerank.tasks.requests import AsyncBackend
from rerank.tasks.tracing import agenerate_traced
from rerank.types import Ranking

#: Maximum number of lists read, counted from the oldest unfinished list, as a multiple of the number of open lists.
_AHEAD = 4
#: Number of characters from which the prompts of a list are rendered in a thread.
_LARGE_LIST = 50_000


class RequestLimit:
    """The number of requests that the lists of a run send together.

    A list that is open may always send one, and lists are opened in order, as soon as there is room. So their requests
    come list by list, which caches of prefixes need, and no prompts are rendered long before they are sent.
    """

    def __init__(self, most: int) -> None:
        self.free = most
        self._turn, self._changed = asyncio.Lock(), asyncio.Event()

    async def wait_for_room(self) -> None:
        async with self._turn:
            while self.free <= 0:
                self._changed.clear()
                await self._changed.wait()

    def release(self, count: int) -> None:
        self.free += count
        self._changed.set()


async def drive_list(
    ranking: Ranking,
    driver: Driver,
    backend: AsyncBackend,
    *,
    top_k: int | None = None,
    deadline: float | None = None,
    limit: RequestLimit | None = None,
) -> RankedList:
    """Rerank one list. This coroutine must run on the background loop; cancelling it cancels its requests.

    The ``batch_size`` of the backend is the maximum number of requests in flight for this list, and ``limit`` that of
    all lists that share it. ``deadline`` is the `time.monotonic` value at which the ranking ends with the windows
    judged so far. Prompts of large lists are rendered in a thread, so that other rankings do not wait.
    """
    limit = limit or RequestLimit(backend.batch_size)
    tasks: dict[asyncio.Task[Reply], Ticket] = {}
    is_large = sum(len(document.text) for document in ranking.docs) > _LARGE_LIST
    add, next_requests = partial(driver.add, ranking, top_k=top_k), driver.next_requests
    key = await asyncio.to_thread(add) if is_large else add()
    try:
        while True:
            free = min(backend.batch_size - len(tasks), max(limit.free, not tasks))
            tickets = await asyncio.to_thread(next_requests, free) if is_large else next_requests(free)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if left != 0:  # rendering takes time, and no request is sent after the deadline
                if len(tickets) == 1 and not tasks:  # awaited directly: a task would wait for its turn on the loop
                    (ticket,) = tickets
                    limit.free -= 1
                    try:
                        reply = await _answer_in_time(backend, ticket, left)
                    finally:
                        limit.release(1)
                    if reply is None:
                        driver.expire(key)
                        break
                    driver.put(ticket, reply)
                    continue
                for ticket in tickets:
                    tasks[asyncio.create_task(agenerate_traced(backend, ticket.request, ranking))] = ticket
                limit.free -= len(tickets)
            if tasks:
                done, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not tasks or not done:
                driver.expire(key)  # without effect if the ranking has finished
                break
            if any(task.exception() for task in done):  # other requests may be billed: await and log them
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                await asyncio.wait(tasks, timeout=left)
            limit.release(len(done))
            for task in done:
                driver.put(tasks.pop(task), task.result())
    finally:
        limit.release(len(tasks))
        await _end_ranking_tasks(tasks, cancel=True)
    ((_, result),) = driver.finished()
    if not isinstance(result, RankedList):
        raise result
    return result


async def _answer_in_time(backend: AsyncBackend, ticket: Ticket, seconds: float | None) -> Reply | None:
    """Return the reply to a request, or None if it takes longer than ``seconds`` (if None, there is no limit)."""
    try:
        async with asyncio.timeout(seconds) as limit:
            return await agenerate_traced(backend, ticket.request, ticket.ranking)
    except TimeoutError:
        if not limit.expired():
            raise
        return None


def rank_concurrently(
    rankings: Iterable[Ranking],
    make_driver: Callable[[], Driver],
    backend: AsyncBackend,
    *,
    in_flight: int,
    top_k: int | None = None,
) -> Iterator[tuple[int, RankedList]]:
    """Rerank lists, ``in_flight`` at a time, and yield pairs of position and result as rankings finish.

    The next list is read when one of the ``in_flight`` rankings has finished. If an error occurs or the iterator is
    closed, all rankings end first; replies that have arrived are already logged.
    """
    ended: queue.SimpleQueue[tuple[int, RankedList | BaseException]] = queue.SimpleQueue()
    tasks: dict[int, asyncio.Task[Any]] = {}  # the rankings that have not ended, on the background loop

    async def rank(index: int, ranking: Ranking) -> None:
        task = tasks[index] = cast("asyncio.Task[Any]", asyncio.current_task())
        task.add_done_callback(lambda _: tasks.pop(index))
        try:
            await limit.wait_for_room()
            opened.add(index)
            ended.put((index, await drive_list(ranking, make_driver(), backend, top_k=top_k, limit=limit)))
        except BaseException as error:
            ended.put((index, error))
            raise

    limit, opened = RequestLimit(2 * backend.batch_size), set[int]()
    source = iter(rankings)
    unfinished: set[int] = set()
    read, is_failed = 0, False
    try:
        while True:
            # Results of later lists have to wait for a slow list, so the number of lists read after it is bounded.
            oldest = min(unfinished, default=read)
            while (
                len(unfinished) < in_flight
                and read < oldest + _AHEAD * in_flight
                and (ranking := next(source, None)) is not None
            ):
                submit_to_loop(rank(read, ranking))
                unfinished.add(read)
                read += 1
            if not unfinished:
                return
            index, result = ended.get()
            unfinished.remove(index)
            if not isinstance(result, RankedList):
                is_failed = True
                raise result
            yield index, result
    finally:
        # After an error, requests in flight may complete, since they may be billed; after Ctrl-C, they are cancelled.
        waiting = [task for index, task in list(tasks.items()) if index not in opened]
        run_on_loop(_end_ranking_tasks(waiting, cancel=True))
        run_on_loop(_end_ranking_tasks(list(tasks.values()), cancel=not is_failed))


async def _end_ranking_tasks(tasks: Iterable[asyncio.Task[Any]], *, cancel: bool) -> None:
    """Wait until all tasks have ended, so that no task commits a reply after the log is closed."""
    running = list(tasks)
    for task in running:
        if cancel:
            task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
