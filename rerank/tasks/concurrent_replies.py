"""Answer many requests concurrently, for backends behind a network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rerank.errors import BackendError
from rerank.tasks.requests import Reply, Request


async def answer_task_requests_concurrently(
    answer: Callable[[Request], Awaitable[Reply]], requests: Sequence[Request], *, limit: int
) -> list[Reply]:
    """Return the replies to all requests, in order.

    An error that concerns all requests is raised only if no request got a reply, since existing replies may have
    cost money. Otherwise, the requests that it concerns get a reply with the error.

    Args:
        answer: Returns the reply to one request.
        requests: The requests.
        limit: Maximum number of simultaneous requests.

    Raises:
        BackendError: No request can be answered.
        UsageError: The model lacks a capability that a request needs.
    """
    slots = asyncio.Semaphore(limit)
    fatal: list[BackendError] = []
    has_reply = False

    async def answer_in_turn(request: Request) -> Reply:
        nonlocal has_reply
        async with slots:  # after a fatal error, nothing more is sent
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
