"""Which of several servers gets a request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rerank.backends.base.routing import ServerRouter


def route(scenario: Callable[[ServerRouter], Awaitable[None]], *slots: int) -> None:
    async def run() -> None:
        await scenario(ServerRouter(slots))

    asyncio.run(run())


async def take(router: ServerRouter, group: str) -> int:
    return (await router.acquire(group)).position


def test_a_group_stays_where_it_began_and_groups_spread() -> None:
    async def scenario(router: ServerRouter) -> None:
        assert [await take(router, group) for group in "abab"] == [0, 1, 0, 1]
        router.release(router.servers[0])
        assert await take(router, "a") == 0

    route(scenario, 3, 3)


def test_an_idle_server_takes_what_would_wait() -> None:
    async def scenario(router: ServerRouter) -> None:
        assert [await take(router, "a"), await take(router, "a")] == [0, 1]
        waiting = [asyncio.create_task(take(router, group)) for group in "aa"]
        await asyncio.sleep(0)
        router.release(router.servers[1])
        assert await waiting[0] == 1
        waiting[1].cancel()
        await asyncio.wait(waiting)
        router.release(router.servers[0])
        router.release(router.servers[1])
        assert router.is_idle

    route(scenario, 1, 1)


def test_a_slot_whose_caller_is_cancelled_is_free_again() -> None:
    async def scenario(router: ServerRouter) -> None:
        await router.acquire("a")
        waiting = asyncio.create_task(router.acquire("a"))
        await asyncio.sleep(0)
        router.release(router.servers[0])  # assigned, before the cancellation arrives
        waiting.cancel()
        await asyncio.wait([waiting])
        assert router.is_idle

    route(scenario, 1)


def test_a_resting_server_gets_nothing_unless_all_rest() -> None:
    async def scenario(router: ServerRouter) -> None:
        first, second = router.servers
        assert await take(router, "a") == 0
        waiting = [asyncio.create_task(take(router, "a")) for _ in range(3)]
        await asyncio.sleep(0)  # one is taken by the second server, two wait for the first
        router.rest(first)
        assert not router.has_other(1)
        assert len(second.waiting) == 2
        router.release(second)
        await asyncio.sleep(0)
        router.rest(second)
        router.extend_rest(second)
        assert (first.pause, second.pause) == (1.0, 2.0)
        router.release(second)
        assert await asyncio.gather(*waiting) == [1, 1, 1]
        router.release(first)
        assert await take(router, "b") == 0
        router.release(second)
        router.end_rest(second)
        assert await take(router, "c") == 1

    route(scenario, 1, 1)


def test_old_groups_are_forgotten() -> None:
    async def scenario(router: ServerRouter) -> None:
        for group in range(5000):
            router.release(await router.acquire(group))
        assert len(router._homes) == 4096

    route(scenario, 1, 1)
