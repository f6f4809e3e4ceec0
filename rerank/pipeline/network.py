"""The driver's tasks over ``AsyncBackend.agenerate``, for models behind a network.

They run on the background event loop of the process (`rerank.tasks.background_loop`), which owns the connections. Every
ranking is a coroutine; the backend limits the number of simultaneous requests, so a slot that becomes free goes to the
next request at once, whichever ranking it belongs to.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from rerank.pipeline.driver import Driver, Ticket
from rerank.pipeline.results import RankedList
from rerank.strategies.base import Strategy
from rerank.tasks import Reply
from rerank.tasks.background_loop import run, submit
from rerank.tasks.requests import AsyncBackend
from rerank.types import Ranking


async def rank_list(
    ranking: Ranking,
    driver: Driver,
    backend: AsyncBackend,
    *,
    strategy: Strategy | None = None,
    top_k: int | None = None,
    deadline: float | None = None,
) -> RankedList:
    """Rerank one list; to be run on the background loop.

    Cancelling it cancels its requests.

    Args:
        ranking: The first-stage list.
        driver: A driver without rankings.
        backend: Answers the requests; its ``batch_size`` bounds the requests of this list in flight.
        strategy: As in `Driver.add`.
        top_k: As in `Driver.add`.
        deadline: Time of the event loop at which the ranking ends with what was judged; None for no deadline.

    Raises:
        RerankError: The list cannot be ranked, or the backend cannot answer at all; its other requests have then ended.
    """
    loop = asyncio.get_running_loop()
    tasks: dict[asyncio.Task[Reply], Ticket] = {}
    key = driver.add(ranking, strategy=strategy, top_k=top_k)
    try:
        while True:
            for ticket in driver.next_requests(backend.batch_size - len(tasks)):
                tasks[loop.create_task(backend.agenerate(ticket.request))] = ticket
            if not tasks:
                break
            left = None if deadline is None else max(0.0, deadline - loop.time())
            done, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                driver.expire(key)
                break
            failed = next((task for task in done if task.exception()), None)
            if failed is not None:  # replies that are on their way, and may be billed, are awaited and logged
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                driver.put(tasks.pop(task), task.result())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    ((_, result),) = driver.finished()
    if not isinstance(result, RankedList):
        raise result
    return result


def rank_concurrently(
    rankings: Iterable[Ranking],
    make_driver: Callable[[], Driver],
    backend: AsyncBackend,
    *,
    in_flight: int,
    top_k: int | None = None,
) -> Iterator[tuple[int, RankedList]]:
    """Rerank lists, ``in_flight`` at a time, and yield them with their positions as they finish.

    An error, and closing the iterator, end all rankings first; replies that have arrived are already logged.

    Args:
        rankings: The first-stage lists, read when there is a place for one.
        make_driver: Returns a driver without rankings.
        backend: Answers the requests.
        in_flight: Number of rankings that are open at a time.
        top_k: As in `Driver.add`.

    Raises:
        RerankError: A list cannot be ranked, or the backend cannot answer at all.
    """
    ended: queue.SimpleQueue[tuple[int, RankedList | BaseException]] = queue.SimpleQueue()
    tasks: dict[int, asyncio.Task[Any]] = {}

    async def report(index: int, ranking: Ranking) -> None:
        task = tasks[index] = cast("asyncio.Task[Any]", asyncio.current_task())
        task.add_done_callback(lambda _: tasks.pop(index))
        try:
            ended.put((index, await rank_list(ranking, make_driver(), backend, top_k=top_k)))
        except BaseException as error:
            ended.put((index, error))
            raise

    source = enumerate(rankings)
    open_lists, is_failed = 0, False
    try:
        while True:
            while open_lists < in_flight and (item := next(source, None)) is not None:
                submit(report(*item))
                open_lists += 1
            if not open_lists:
                return
            index, result = ended.get()
            open_lists -= 1
            if not isinstance(result, RankedList):
                is_failed = True
                raise result
            yield index, result
    finally:
        # After an error, requests in flight end by themselves, since they may be billed; Ctrl-C cancels them.
        run(_end(tasks, cancel=not is_failed))


async def _end(tasks: Mapping[int, asyncio.Task[Any]], *, cancel: bool) -> None:
    """Wait until all tasks have ended, so that nothing is committed to a log that is closed."""
    running = list(tasks.values())
    for task in running:
        if cancel:
            task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
