"""Exchange of messages between workers and the process that owns the run folder, which is not an actor itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any


class MessageExchange:
    """A Ray actor that hands the messages of workers to the owner of the run folder, and its answers to the workers.

    Args:
        job: What workers get when they start.
    """

    def __init__(self, job: Any) -> None:
        """Start without messages."""
        self._job = job
        self._messages: dict[int, Any] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._has_messages = asyncio.Event()

    async def job(self) -> Any:
        """Return what workers get when they start."""
        return self._job

    async def ask(self, message: Any) -> Any:
        """Pass on a message of a worker, and return the answer."""
        self._count += 1
        number = self._count
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._messages[number] = message
        self._has_messages.set()
        return await answer

    async def serve(self, answers: Mapping[int, Any]) -> dict[int, Any]:
        """Pass on answers, and return the next messages; none after `wake`. The keys are numbers of messages."""
        for number, answer in answers.items():
            self._answers.pop(number).set_result(answer)
        await self._has_messages.wait()
        self._has_messages.clear()
        messages, self._messages = self._messages, {}
        return messages

    async def wake(self) -> None:
        """Let `serve` return, with or without messages."""
        self._has_messages.set()
