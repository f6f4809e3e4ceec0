"""Answer many requests concurrently, for backends behind a network, and return the replies together or one by one."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from rerank.errors import BackendError
from rerank.tasks.background_loop import submit_to_task_request_loop
from rerank.tasks.requests import AsyncBackend, Backend, Reply, Request

T = TypeVar("T")


async def answer_task_requests_concurrently(
    answer: Callable[[T], Awaitable[Reply]], requests: Sequence[T], *, limit: int
) -> list[Reply]:
    """Return the replies to all requests, in the order of the requests.

    An error that concerns all requests is raised only if no request was answered, since existing replies may have
    cost money. Otherwise, each request that failed with such an error gets a `Reply` with the error message.

    Args:
        answer: Coroutine function that returns the reply to one request.
        requests: The requests, or other values that ``answer`` accepts in their place, such as positions.
        limit: Maximum number of simultaneous requests.
    """
    slots = asyncio.Semaphore(limit)
    fatal: list[BackendError] = []
    has_reply = False

    async def answer_in_turn(request: T) -> Reply:
        nonlocal has_reply
        async with slots:  # after a fatal error, no further request is sent unless some request was answered
            if fatal and not has_reply:
                return Reply(finish="error", error=str(fatal[0]))
            try:
                reply = await answer(request)
            except BackendError as error:
                fatal.append(error)
                return Reply(finish="error", error=str(error))
            has_reply = has_reply or reply.finish != "error"
            return reply

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer_in_turn(request)) for request in requests]
    except ExceptionGroup as failures:  # the first exception has cancelled the other tasks
        raise failures.exceptions[0] from None
    if fatal and not has_reply:
        raise fatal[0]
    return [task.result() for task in tasks]


def iterate_task_replies(backend: Backend, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
    """Yield the position and the reply of each request as soon as the reply arrives.

    A backend that waits for a network answers the requests concurrently, so a slow reply does not delay the others. Any
    other backend answers all requests in one call. If the iterator is closed, the requests in flight are cancelled.
    """
    if not isinstance(backend, AsyncBackend):
        yield from enumerate(backend.generate(requests))
        return
    arrived: queue.SimpleQueue[tuple[int, Reply] | None] = queue.SimpleQueue()

    async def answer(position: int) -> Reply:
        reply = await backend.agenerate(requests[position])
        arrived.put((position, reply))
        return reply

    positions = range(len(requests))
    future = submit_to_task_request_loop(answer_task_requests_concurrently(answer, positions, limit=backend.batch_size))
    future.add_done_callback(lambda _: arrived.put(None))
    yielded: set[int] = set()
    try:
        while (item := arrived.get()) is not None:
            yielded.add(item[0])
            yield item
    finally:
        future.cancel()
    replies = future.result()
    yield from ((position, replies[position]) for position in positions if position not in yielded)
