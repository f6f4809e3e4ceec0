"""The pool of workers. Ray Data runs one task per actor, and the pool answers the messages of the tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from rerank.engines.ray.blocks import KeepCalls, WorkBlocks
from rerank.errors import BackendError, RerankError


class MessageExchange:
    """A Ray actor that passes messages of workers to the owner of the run folder, and the answers back."""

    def __init__(self, job: Any) -> None:
        self._job = job
        self._messages: dict[int, Any] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._has_messages = asyncio.Event()

    async def job(self) -> Any:
        return self._job

    async def ask(self, message: Any) -> Any:
        self._count += 1
        number = self._count
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._messages[number] = message
        self._has_messages.set()
        return await answer

    async def serve(self, answers: Mapping[int, Any]) -> dict[int, Any]:
        """Pass answers on to the workers, wait for the next messages, and return these, by message number.

        After `wake`, the returned mapping may be empty.
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


Result = TypeVar("Result")

#: Seconds between checks of the pool and its workers, and seconds to wait for replies in flight after an error.
_CHECK, _LAST_REPLIES = 1.0, 60.0


class WorkerPool:
    """The running workers of an engine."""

    def __init__(self, exchange: Any, dataset: Any) -> None:
        self._exchange, self._dataset = exchange, dataset
        self._error: Exception | None = None
        self._request: Any = None
        self._thread = threading.Thread(target=self._execute, name="rerank-ray-data", daemon=True)
        self._thread.start()

    def _execute(self) -> None:
        try:
            for _ in self._dataset.iter_batches(batch_size=None, prefetch_batches=0):
                pass
        except Exception as error:  # noqa: BLE001 - raised by the thread that serves the workers
            self._error = error
        with suppress(Exception):  # the cluster may be gone
            self._exchange.wake.remote()

    def serve(self, blocks: WorkBlocks[Any, Result], timeout: float | None) -> Iterator[Result]:
        """Answer the messages of the workers, and yield results, until all blocks are processed.

        A worker that has sent no message for ``timeout`` seconds is restarted.
        """
        import ray

        waiting: dict[int, Any] = {}
        answers: dict[int, Any] = {}
        while self._thread.is_alive():
            messages, received = self._exchange_messages(answers), time.monotonic()
            if messages is not None:
                waiting |= messages
                answers = {}
                has_results = True
                while has_results:  # the items of the next blocks may depend on results that the caller has taken
                    answers |= self._answer(blocks, waiting)
                    waiting = {number: message for number, message in waiting.items() if number not in answers}
                    has_results = False
                    for result in blocks.take_results():
                        has_results = True
                        yield result
            if timeout is not None:
                # messages may have arrived since the last exchange, so only the silence before it counts
                for worker in blocks.overdue_workers(timeout + time.monotonic() - received):
                    ray.kill(worker, no_restart=False)
        if self._error is not None:
            raise self._failed(self._error) from self._error

    def _answer(self, blocks: WorkBlocks[Any, Any], messages: Mapping[int, Any]) -> dict[int, Any]:
        try:
            return blocks.answer_all(messages)
        except Exception:
            self._keep_replies_in_flight(blocks)
            raise

    def _exchange_messages(self, answers: Mapping[int, Any]) -> dict[int, Any] | None:
        """Send answers, and return the next messages; after None, call again with the same answers."""
        import ray

        self._request = self._request or self._exchange.serve.remote(answers)
        try:
            messages: dict[int, Any] = ray.get(self._request, timeout=_CHECK)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayError as error:
            raise self._failed(error) from error
        self._request = None
        return messages

    def _keep_replies_in_flight(self, blocks: WorkBlocks[Any, Any]) -> None:
        """After an error, wait for replies to other workers' calls in flight and commit them, as they may be billed."""
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + _LAST_REPLIES
        with suppress(RerankError):  # the first error is the one to report
            while blocks.has_calls_in_flight() and time.monotonic() < deadline:
                messages = self._exchange_messages(answers)
                if messages is not None:
                    kept = {n: message for n, message in messages.items() if isinstance(message, KeepCalls)}
                    answers = blocks.answer_all(kept)

    def _failed(self, error: Exception) -> BackendError:
        return BackendError(
            f"The workers of Ray ended before their work was finished: {error}",
            remedy="Committed calls are kept; repeat the command, and pass --resume to continue a run",
        )

    def end(self) -> None:
        import ray

        with suppress(Exception):  # the cluster may be gone
            ray.kill(self._exchange)
        self._thread.join(timeout=10)
