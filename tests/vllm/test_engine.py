"""The stream of requests into an engine and of results out of it, with an engine that counts steps."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from rerank.backends.vllm import engine
from rerank.backends.vllm.engine import EngineRequest, EngineStream, RefusedRequestError
from rerank.errors import BackendError
from tests.raising import raises


class Engine:
    """An engine whose requests take as many steps as their prompt says; it fails at the step ``failing``."""

    def __init__(self, failing: int = -1) -> None:
        self.left: dict[str, int] = {}
        self.steps, self.failing, self.ended = 0, failing, list[str]()
        self.renderer = SimpleNamespace(render_cmpl=lambda prompts: [prompt["prompt_token_ids"] for prompt in prompts])
        self.engine_core = SimpleNamespace(shutdown=lambda: self.ended.append("shutdown"))
        self.allowed = threading.Semaphore(10**9)  # steps

    def add_request(self, name: str, prompt: list[int], params: Any, lora_request: Any) -> None:
        if prompt[0] < 0:
            raise ValueError("a prompt below zero")
        self.left[name] = prompt[0]

    def abort_request(self, names: list[str]) -> None:
        self.ended += [f"aborted {self.left.pop(name)}" for name in names]

    def step(self) -> list[Any]:
        self.allowed.acquire(timeout=10)
        self.steps += 1
        if self.steps == self.failing:
            raise RuntimeError("EngineCore encountered an issue")
        self.left = {name: steps - 1 for name, steps in self.left.items()}
        ended = [name for name, steps in self.left.items() if not steps]
        self.left = {name: steps for name, steps in self.left.items() if steps}
        return [SimpleNamespace(finished=True, request_id=name, outputs=[self.steps]) for name in ended]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[EngineStream, Engine]]:
    def make_stream(**options: Any) -> tuple[EngineStream, Engine]:
        counting = Engine(**options)
        return EngineStream(SimpleNamespace(llm_engine=counting)), counting

    monkeypatch.setattr(engine, "make_params", lambda parameters: parameters)
    return make_stream


def asked(*steps: int) -> list[EngineRequest]:
    return [EngineRequest([count], {}) for count in steps]


async def outcomes(stream: EngineStream, *steps: int) -> list[Any]:
    """Run requests apart and return the step at which each ended, or its error."""
    found = await asyncio.gather(*(stream.run(asked(count)) for count in steps), return_exceptions=True)
    return [one if isinstance(one, BaseException) else one[0].future.result() for one in found]


def test_a_short_request_that_comes_later_ends_before_a_long_one(make: Any) -> None:
    stream, counting = make()

    async def run() -> None:
        counting.allowed = threading.Semaphore(0)
        long = asyncio.create_task(stream.run(asked(5)))
        await asyncio.sleep(0.05)  # it is in its first step
        short = asyncio.create_task(stream.run(asked(1)))
        await asyncio.sleep(0.05)
        counting.allowed.release(2)
        (call,) = await short
        assert (call.future.result(), long.done()) == (2, False)
        counting.allowed.release(3)
        (call,) = await long
        assert (call.future.result(), counting.steps) == (5, 5)
        assert call.seconds > 0

    asyncio.run(run())


def test_a_request_that_the_engine_refuses_ends_alone(make: Any) -> None:
    stream, _ = make()
    kept, refused, later = asyncio.run(outcomes(stream, 3, -1, 1))
    assert [type(kept), type(later)] == [int, int]
    assert isinstance(refused, RefusedRequestError)
    assert "a prompt below zero" in str(refused)
    assert asyncio.run(outcomes(stream, 2)) == [max(kept, later) + 2]  # on another event loop


def test_a_cancelled_request_leaves_the_engine(make: Any) -> None:
    stream, counting = make()

    async def run() -> list[Any]:
        unwanted = asyncio.create_task(stream.run(asked(10**6, 10**6)))
        await outcomes(stream, 1)
        unwanted.cancel()
        await asyncio.wait([unwanted])
        return await outcomes(stream, 3)

    assert len(asyncio.run(run())) == 1
    assert len(counting.ended) == 2
    assert not counting.left


@pytest.mark.parametrize("failing", [1, 3])
def test_an_engine_that_fails_ends_all_its_requests_and_takes_no_more(make: Any, failing: int) -> None:
    stream, counting = make(failing=failing)
    found = asyncio.run(outcomes(stream, 1, 50, 60))
    assert [isinstance(one, BackendError) for one in found] == [failing == 1, True, True]
    assert "EngineCore encountered an issue" in str(found[1])
    assert "--resume" in str(found[1])
    with pytest.raises(BackendError):
        asyncio.run(stream.run(asked(1)))
    assert counting.steps == failing


def test_stopping_ends_the_requests_and_the_engine(make: Any) -> None:
    stream, counting = make()

    async def run() -> list[Any]:
        running = asyncio.create_task(outcomes(stream, 10**6))
        while not counting.steps:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(stream.stop, BackendError("another model was loaded"))
        return await running

    (error,) = asyncio.run(run())
    assert isinstance(error, BackendError)
    assert counting.ended == ["shutdown"]
    with raises(BackendError, "another model was loaded"):
        asyncio.run(stream.run(asked(1)))


def test_the_thread_ends_without_requests_and_starts_again(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_IDLE", 0.01)
    stream, _ = make()
    for _ in range(2):
        assert len(asyncio.run(outcomes(stream, 2))) == 1
        limit = time.monotonic() + 10
        while stream._thread is not None and time.monotonic() < limit:
            time.sleep(0.01)
        assert stream._thread is None
