"""The limit on simultaneous work, and calls that callers share."""

from __future__ import annotations

import asyncio

import pytest

from rerank.tasks.concurrency import ConcurrencyLimit, SharedCall


def test_the_limit_holds_and_is_used() -> None:
    limit, running, most = ConcurrencyLimit(3), 0, 0

    async def work() -> None:
        nonlocal running, most
        async with limit:
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

    async def all_of_them() -> None:
        await asyncio.gather(*(work() for _ in range(20)))

    for _ in range(2):  # on two event loops
        asyncio.run(all_of_them())
    assert (most, running) == (3, 0)


def test_failed_and_cancelled_work_frees_its_slot() -> None:
    limit = ConcurrencyLimit(1)

    async def work(seconds: float) -> None:
        async with limit:
            await asyncio.sleep(seconds)
            raise KeyError

    async def all_of_them() -> list[BaseException | None]:
        tasks = [asyncio.create_task(work(seconds)) for seconds in (60, 60, 0)]
        await asyncio.sleep(0)
        tasks[1].cancel()  # waits for its slot
        await asyncio.sleep(0)
        tasks[0].cancel()  # has it
        return await asyncio.gather(*tasks, return_exceptions=True)

    kinds = [type(outcome) for outcome in asyncio.run(all_of_them())]
    assert kinds == [asyncio.CancelledError, asyncio.CancelledError, KeyError]


class Calls:
    """Counts how often it is started, finished and cancelled."""

    def __init__(self, *outcomes: int | Exception) -> None:
        self.outcomes = list(outcomes)
        self.started = self.cancelled = 0

    async def __call__(self) -> int:
        self.started += 1
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_callers_at_the_same_time_share_a_call_and_its_failure() -> None:
    async def five(shared: SharedCall[int]) -> list[int | BaseException]:
        return await asyncio.gather(*(shared() for _ in range(5)), return_exceptions=True)

    calls = Calls(KeyError("once"), 7)
    shared = SharedCall(calls)
    first = asyncio.run(five(shared))
    assert [type(outcome) for outcome in first] == [KeyError] * 5
    assert asyncio.run(five(shared)) == [7] * 5
    assert calls.started == 2


def test_a_cancelled_caller_leaves_the_call_to_the_others() -> None:
    calls = Calls(7)

    async def two() -> int:
        shared = SharedCall(calls)
        leaving, staying = asyncio.create_task(shared()), asyncio.create_task(shared())
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return await staying

    assert asyncio.run(two()) == 7
    assert (calls.started, calls.cancelled) == (1, 0)


def test_the_last_caller_cancels_the_call_and_the_next_one_starts_it_again() -> None:
    calls = Calls(7)

    async def three() -> int:
        shared = SharedCall(calls)
        tasks = [asyncio.create_task(shared()) for _ in range(2)]
        while not calls.started:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        next_one = asyncio.create_task(shared())  # while the cancelled call ends
        await asyncio.gather(*tasks, return_exceptions=True)
        return await next_one

    assert asyncio.run(three()) == 7
    assert (calls.started, calls.cancelled) == (2, 1)
