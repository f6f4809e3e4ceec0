"""Cancels the work for a client that has left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from starlette.requests import Request

T = TypeVar("T")


class ClientLeftError(Exception):
    """The client closed the connection before it got the answer."""


async def run_while_connected(request: Request, work: Coroutine[object, object, T]) -> T:
    """Return the result of ``work``; cancel it if the client leaves first.

    Args:
        request: The request, whose body has been read.
        work: What the client waits for.

    Raises:
        ClientLeftError: The client left.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeftError
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
