"""Exchange of messages between workers and the process that owns the run folder, which is not a Ray actor."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any


class MessageExchange:
    """A Ray actor that passes messages of workers to the owner of the run folder, and the answers back to the workers.

    Args:
        job: The work, such as a `WorkerJob`, that workers fetch when they start.
    """

    def __init__(self, job: Any) -> None:
        """Create an exchange without messages."""
        self._job = job
        self._messages: dict[int, Any] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._has_messages = asyncio.Event()

    async def job(self) -> Any:
        """Return the work that workers fetch when they start."""
        return self._job

    async def ask(self, message: Any) -> Any:
        """Pass on a message of a worker, and return the answer after waiting for it."""
        self._count += 1
        number = self._count
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._messages[number] = message
        self._has_messages.set()
        return await answer

    async def serve(self, answers: Mapping[int, Any]) -> dict[int, Any]:
        """Pass answers on to the workers, wait for the next messages, and return these.

        The keys of both mappings are message numbers. After `wake`, the returned mapping may be empty.
        """
        for number, answer in answers.items():
            self._answers.pop(number).set_result(answer)
        await self._has_messages.wait()
        self._has_messages.clear()
        messages, self._messages = self._messages, {}
        return messages

    async def wake(self) -> None:
        """Let `serve` return even if there are no messages."""
        self._has_messages.set()
