"""The fake that takes requests one by one: the replies of the other fakes, and how long they take together."""

from __future__ import annotations

import asyncio
import time

import pytest

from rerank.backends.fake import Fake, FakeServer
from rerank.errors import UsageError
from rerank.models import open_model_backend
from rerank.prompts.base import Message
from rerank.tasks import AsyncBackend, BackendOptions, Reply, Request, Sampling
from rerank.types import Document, Qrels, Query, Window
from tests.raising import raises


def make_backend() -> FakeServer:
    return FakeServer("perfect", qrels=Qrels({"q": {"d1": 1}}))


def requests(count: int) -> list[Request]:
    docs = tuple(Document(id=f"d{at}", text=f"text {at}") for at in range(4))
    window = Window(Query(id="q"), docs)
    prompts = [(Message("user", f"Which is best? {at}"),) for at in range(count)]
    return [Request(prompt=prompt, sampling=Sampling(max_tokens=9), window=window) for prompt in prompts]


@pytest.mark.parametrize("kind", ["reversed", "stutter", "fail"])
def test_identity_and_replies_are_those_of_the_fake(kind: str) -> None:
    fake, server = Fake(kind), FakeServer(kind)
    assert fake.identity == server.identity
    expected = [(reply.text, reply.finish, reply.tokens_in) for reply in fake.generate(requests(9))]
    assert [(reply.text, reply.finish, reply.tokens_in) for reply in server.generate(requests(9))] == expected
    assert sorted(fake.served) == sorted(server.served)


def test_only_it_is_an_asynchronous_backend() -> None:
    assert isinstance(make_backend(), AsyncBackend)
    assert not isinstance(Fake("perfect"), AsyncBackend)


def test_it_is_opened_by_its_selector() -> None:
    options = BackendOptions(concurrency=3, batch_size=5)
    server = open_model_backend("fake-server:reversed,delay=0.5,slow_every=4", options, qrels=Qrels({"q": {"d": 1}}))
    assert isinstance(server, FakeServer)
    assert (server.kind, server.delay, server.slow_every, server.concurrency) == ("reversed", 0.5, 4, 3)
    assert (server.batch_size, server.qrels) == (5, Qrels({"q": {"d": 1}}))


def test_requests_wait_together_up_to_the_limit() -> None:
    server = FakeServer("reversed", delay=0.02, concurrency=4)
    started = time.perf_counter()
    replies = server.generate(requests(8))
    assert time.perf_counter() - started >= 0.04
    assert (server.most_in_progress, server.in_progress, server.arrived) == (4, 0, 8)
    assert all(reply.seconds >= 0.02 for reply in replies)


def test_seconds_do_not_include_the_wait_for_others() -> None:
    server = FakeServer("reversed", delay=0.02, concurrency=1)
    started = time.perf_counter()
    replies = server.generate(requests(4))
    assert sum(reply.seconds for reply in replies) <= time.perf_counter() - started


def test_some_are_slow() -> None:
    replies = FakeServer("reversed", slow_every=3, slow_delay=0.3).generate(requests(6))
    by_seconds = sorted(range(6), key=lambda at: replies[at].seconds)
    assert {*by_seconds[-2:]} == {2, 5}
    assert replies[2].seconds > 0.29  # timers are not exact


def test_a_cancelled_request_frees_its_slot() -> None:
    server = FakeServer("reversed", slow_every=2, slow_delay=30.0, concurrency=1)

    async def cancel_one() -> Reply:
        first, slow = requests(2)
        await server.agenerate(first)
        task = asyncio.create_task(server.agenerate(slow))
        while server.in_progress == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await server.agenerate(first)

    assert asyncio.run(cancel_one()).finish == "stop"
    assert len(server.served) == 2


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"slow_every": -1}, {"slow_delay": -0.1}])
def test_numbers_out_of_range_are_refused(options: dict[str, float]) -> None:
    (name,) = options
    with raises(UsageError, name):
        FakeServer("reversed", **options)  # type: ignore[arg-type]
