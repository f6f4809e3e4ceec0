"""Ends the work for a request: its client leaves, the model takes too long, or the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.requests import Request

from rerank.serving.api_errors import ApiError, server_stopping_error

T = TypeVar("T")

#: Status of a request whose client left, as nginx logs it. Nobody receives it.
CLIENT_LEFT_STATUS = 499


class ClientLeftError(Exception):
    """The client closed the connection before it got the answer."""


async def run_while_connected(request: Request, work: Coroutine[object, object, T], *, timeout: float) -> T:
    """Return the result of ``work``; cancel it if the client leaves, time is up or the server stops.

    Args:
        request: The request, whose body has been read. The event ``stopping`` in the state of its application is set
            if the server no longer waits for work.
        work: What the client waits for.
        timeout: Maximum number of seconds.

    Raises:
        ClientLeftError: The client left.
        ApiError: Time is up (504), or the server stops (503).
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_wait_for_disconnect(request))
    stopping = asyncio.ensure_future(request.app.state.stopping.wait())
    try:
        await asyncio.wait({task, leaving, stopping}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if leaving.done():
            raise ClientLeftError
        if stopping.done():
            raise server_stopping_error()
        raise ApiError(504, f"No answer after {timeout:g} s, counting the wait for a turn; send fewer documents")
    finally:
        leaving.cancel()
        stopping.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
