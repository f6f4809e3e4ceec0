"""Cancellation of the work for a request whose client disconnects or for which the model takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.requests import Request

from rerank.serving.api_errors import ApiError

T = TypeVar("T")

#: Status of a request whose client has disconnected, as in nginx's log. No client receives it.
CLIENT_LEFT_STATUS = 499


class ClientLeftError(Exception):
    """Raised if a client closes the connection before the response is sent."""


async def run_while_connected(request: Request, work: Coroutine[object, object, T], *, timeout: float) -> T:
    """Return the result of ``work``, or cancel ``work`` if the client disconnects or the time is up.

    Args:
        request: The request, whose body has been read.
        work: Coroutine that computes the response.
        timeout: Maximum duration of the work, in seconds.
    """
    try:
        async with asyncio.timeout(timeout) as limit:
            leaving = asyncio.create_task(_end_if_client_leaves(request, limit))
            try:
                return await work
            finally:
                leaving.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
        if leaving.done() and not leaving.cancelled():
            raise ClientLeftError from None
        message = f"No response after {timeout:g} s, including the wait for a turn; send fewer documents"
        raise ApiError(504, message) from None


async def _end_if_client_leaves(request: Request, limit: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    limit.reschedule(0.0)
