"""The backend ``fake-server``: a fake whose replies take time, like those of a server, for tests and benchmarks.

It accepts requests one by one, like the backend ``openai``, but needs neither a server nor a network:
``--model fake-server:reversed,delay=0.2``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

from rerank.backends.fake import Fake
from rerank.errors import UsageError
from rerank.tasks import Reply, Request
from rerank.tasks.background_loop import await_on_task_request_loop, run_on_task_request_loop
from rerank.tasks.concurrency_limit import ConcurrencyLimit


@dataclass(slots=True, eq=False)
class FakeServer(Fake):
    """A `Fake` that answers requests one by one. It waits without blocking and limits concurrency.

    Attributes:
        batch_size: Number of requests per batch.
        concurrency: Maximum number of requests that are answered at the same time; the others wait.
        slow_every: Make every N-th request slow, where N is this number; 0 for no slow requests.
        slow_delay: Delay of a slow request in seconds, instead of ``delay``.
        arrived: Number of requests that have been started.
        in_progress: Number of requests that are being answered.
        most_in_progress: The largest number of requests that were answered at the same time.
    """

    _: KW_ONLY
    batch_size: int = 16
    concurrency: int = 8
    slow_every: int = 0
    slow_delay: float = 0.0
    arrived: int = field(default=0, init=False, repr=False)
    in_progress: int = field(default=0, init=False, repr=False)
    most_in_progress: int = field(default=0, init=False, repr=False)
    _limit: ConcurrencyLimit = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the options."""
        Fake.__post_init__(self)
        if self.concurrency < 1 or min(self.slow_every, self.slow_delay) < 0:
            raise UsageError(
                f"fake-server:{self.kind} has concurrency={self.concurrency}, slow_every={self.slow_every}, "
                f"slow_delay={self.slow_delay}",
                expected="a concurrency of at least 1, and no negative number",
            )
        self._limit = ConcurrencyLimit(self.concurrency)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to all requests, in order."""
        return run_on_task_request_loop(self._answer_all(requests)) if requests else []

    async def agenerate(self, request: Request) -> Reply:
        """Return the reply to one request after its delay."""
        return await await_on_task_request_loop(self._answer(request))

    def close(self) -> None:
        """Do nothing, since there are no connections."""

    async def aclose(self) -> None:
        """Do nothing, since there are no connections."""

    async def _answer_all(self, requests: Sequence[Request]) -> list[Reply]:
        return list(await asyncio.gather(*map(self._answer, requests)))

    async def _answer(self, request: Request) -> Reply:
        async with self._limit:
            started = time.perf_counter()
            self.arrived += 1
            self.in_progress += 1
            self.most_in_progress = max(self.most_in_progress, self.in_progress)
            is_slow = self.slow_every and self.arrived % self.slow_every == 0
            try:
                await asyncio.sleep(self.slow_delay if is_slow else self.delay)
                reply = self._reply_now(request, request.digest(self.identity), started)
            finally:
                self.in_progress -= 1
            return replace(reply, seconds=time.perf_counter() - started)
