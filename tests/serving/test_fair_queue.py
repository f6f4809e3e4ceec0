"""The queue: turns between clients, the bound, and slots of clients that leave."""

from __future__ import annotations

import asyncio

import pytest

from rerank.serving.fair_queue import FairQueue, QueueFullError


async def hold(queue: FairQueue, client: str, log: list[str], gate: asyncio.Event | None = None) -> None:
    async with queue.slot(client):
        log.append(client)
        if gate is not None:
            await gate.wait()


async def started(queue: FairQueue, *clients: str) -> tuple[list[asyncio.Task[None]], list[str], asyncio.Event]:
    """Occupy the only slot, then let the clients wait in this order."""
    log: list[str] = []
    gate = asyncio.Event()
    tasks = [asyncio.create_task(hold(queue, "first", log, gate))]
    await asyncio.sleep(0)
    for client in clients:
        tasks.append(asyncio.create_task(hold(queue, client, log)))
        await asyncio.sleep(0)
    return tasks, log, gate


def test_clients_take_turns() -> None:
    async def run() -> list[str]:
        tasks, log, gate = await started(FairQueue(1, 10), "a", "a", "a", "b", "c", "b")
        gate.set()
        await asyncio.gather(*tasks)
        return log

    assert asyncio.run(run()) == ["first", "a", "b", "c", "a", "b", "a"]


def test_a_full_queue_refuses_the_newest_request_of_the_busiest_client() -> None:
    async def run() -> None:
        queue = FairQueue(1, 3)
        tasks, log, gate = await started(queue, "a", "a", "a", "b", "a")
        assert queue.waiting == 3
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [index for index, result in enumerate(results) if isinstance(result, QueueFullError)]
        assert refused == [3, 5]  # the third of a makes place for b; the fourth finds no place
        assert log == ["first", "a", "b", "a"]
        assert (queue.active, queue.waiting) == (0, 0)

    asyncio.run(run())


def test_without_places_to_wait_every_further_request_is_refused() -> None:
    async def run() -> None:
        queue = FairQueue(1, 0)
        tasks, _, gate = await started(queue)
        with pytest.raises(QueueFullError) as caught:
            async with queue.slot("b"):
                pass
        assert 1 <= caught.value.retry_after <= 60
        gate.set()
        await asyncio.gather(*tasks)
        async with queue.slot("b"):
            assert queue.active == 1

    asyncio.run(run())


def test_clients_that_leave_free_their_places() -> None:
    async def run() -> None:
        queue = FairQueue(1, 10)
        tasks, log, gate = await started(queue, "a", "b", "c")
        tasks[2].cancel()
        gate.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[2], asyncio.CancelledError)
        assert log == ["first", "a", "c"]
        assert (queue.active, queue.waiting) == (0, 0)

    asyncio.run(run())


def test_a_client_that_leaves_just_as_its_turn_comes_passes_it_on() -> None:
    async def run() -> None:
        queue = FairQueue(1, 10)
        tasks, log, gate = await started(queue, "a", "b")
        gate.set()
        while queue.waiting == 2:
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (queue.active, queue.waiting) == (0, 0)
        assert log[-1] == "b"

    asyncio.run(run())
