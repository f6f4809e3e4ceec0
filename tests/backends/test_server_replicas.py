"""Several servers with the same model, against servers of ours that fail."""

from __future__ import annotations

import asyncio
import pickle
import re
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.base.addresses import Address
from rerank.backends.base.client import RoutedServer, ServerRouter
from rerank.backends.base.responses import ServerUnavailableError
from rerank.backends.base.server import ServerBackend
from rerank.backends.openai import Openai
from rerank.errors import BackendError, UsageError
from rerank.experiment.spec import RunSpec, read_run_spec
from rerank.models import open_model_backend
from rerank.prompts.base import Message
from rerank.prompts.word_tokens import WordTokens
from rerank.tasks import AsyncBackend, BackendOptions, CrossEncoderTask, FileAddress, Reply, Request, Sampling
from rerank.types import Query, Window
from tests.backends.faulty_server import Act, Answer, FaultyServer, error, models, raw, said
from tests.raising import raises

pytestmark = [pytest.mark.enable_socket, pytest.mark.filterwarnings("ignore:The server .* does not answer")]

FINE = said("[2] > [1]")
DOWN = error(503, "overloaded")
URLS = ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1")


class Waits(list[float]):
    """Notes how long it should have slept, and lets the others run."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0.01)


def request(query: str = "q", text: str = "Rank.") -> Request:
    return Request(prompt=(Message("user", text),), sampling=Sampling(max_tokens=9), window=Window(Query(id=query), ()))


@contextmanager
def several(
    *acts: Sequence[Answer], listings: Sequence[Act | None] = (), **options: Any
) -> Iterator[tuple[Openai, list[FaultyServer], Waits]]:
    """A backend over one server per list of acts."""
    with ExitStack() as stack:
        pairs = zip(acts, listings or [None] * len(acts), strict=True)
        servers = [stack.enter_context(FaultyServer(own, listing=listing)) for own, listing in pairs]
        waits, addresses = Waits(), [Address.parse(server.url) for server in servers]
        backend = Openai.over("m", addresses, options=BackendOptions(**options), sleep=waits)
        try:
            yield backend, servers, waits
        finally:
            backend.close()


def texts(replies: Sequence[Reply]) -> list[str]:
    return [reply.text for reply in replies]


def test_one_address_changes_nothing() -> None:
    for url in (URLS[0], (URLS[0],), [URLS[0]]):
        spec = RunSpec.make({"collection": "pydoc", "model": "openai:m", "base_url": url})
        assert spec.recorded()["base_url"] == URLS[0]
    backend = open_model_backend("openai:m", BackendOptions(base_url=URLS[0]))
    assert isinstance(backend, Openai)
    assert backend.identity == {"model": "m", "server": "127.0.0.1:1/v1"}


def test_the_identity_does_not_depend_on_the_order() -> None:
    one, other = (open_model_backend("openai:m", BackendOptions(base_url=urls)) for urls in (URLS, URLS[::-1]))
    assert one.identity == other.identity == {"model": "m", "server": "127.0.0.1:1/v1 127.0.0.1:2/v1"}
    assert isinstance(one, AsyncBackend)
    assert request().digest(one.identity) == request().digest(other.identity)


def test_the_same_server_twice() -> None:
    with raises(UsageError, "127.0.0.1:1/v1"):
        open_model_backend("openai:m", BackendOptions(base_url=(URLS[0], URLS[0] + "/")))


@pytest.mark.parametrize(("model", "method"), [("api:cohere/m", "cross-encoder"), ("decisions:m", "pointwise")])
def test_other_backends_take_several_servers(model: str, method: str) -> None:
    backend = open_model_backend(model, BackendOptions(base_url=URLS))
    assert isinstance(backend, ServerBackend)
    assert len(backend.client.servers) == 2
    assert backend.default_method == method


class Words(Openai):
    """A plug-in with the method that made the token counter before ``token_counter``."""

    def make_tokens(self, context_size: Callable[[], int]) -> WordTokens:
        return WordTokens(context_size=context_size())


def test_a_plug_in_makes_its_own_token_counter() -> None:
    backend = Words.connect("m", BackendOptions(base_url=URLS, context_size=77))
    assert isinstance(backend.tokens, WordTokens)
    assert backend.tokens.context_size == 77


def test_files_name_several_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spec.toml").write_text('collection = "pydoc"\nmodel = "openai:m"\nbase-url = ["http://a", "http://b"]')
    spec = RunSpec.make(read_run_spec(tmp_path / "spec.toml"))
    assert spec.base_url == ("http://a", "http://b")
    assert spec.recorded()["base_url"] == ["http://a", "http://b"]
    assert all(isinstance(address, FileAddress) and address.file for address in spec.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret")
    https = tuple(FileAddress(url.replace("http", "https"), "spec.toml") for url in ("http://a/v1", "http://b/v1"))
    with raises(UsageError, "spec.toml"):
        open_model_backend("openai:m", BackendOptions(base_url=https))


def test_requests_of_a_query_go_to_one_server() -> None:
    seen: list[dict[str, int]] = [{}, {}]

    def note(at: int) -> Answer:
        def answer(body: dict[str, Any]) -> Act:
            text = body["messages"][0]["content"]
            seen[at][text] = seen[at].get(text, 0) + 1
            return FINE

        return answer

    with several([note(0)], [note(1)]) as (backend, _, _):
        for _ in range(3):
            backend.generate([request(f"q{n}", f"{n}") for n in range(6)])
    assert sorted([*seen[0], *seen[1]]) == [str(n) for n in range(6)]
    assert all(count == 3 for by_text in seen for count in by_text.values())
    assert len(seen[0]) == len(seen[1]) == 3


def test_a_slow_server_gets_less() -> None:
    acts = [replace(FINE, wait=seconds) for seconds in (0.02, 0.2)]
    with several([acts[0]], [acts[1]], concurrency=2) as (backend, (fast, slow), _):
        replies = backend.generate([request(f"q{n}") for n in range(40)])
    assert len(replies) == len(fast.asked) + len(slow.asked) == 40
    assert len(fast.asked) > 2 * len(slow.asked)
    assert slow.most <= fast.most <= 2


def test_what_a_server_does_not_answer_goes_to_the_other_at_once() -> None:
    with several([DOWN], [FINE]) as (backend, (down, fine), waits), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        replies = backend.generate([request(f"q{n}") for n in range(8)])
        assert all(wait.is_integer() for wait in waits)  # pauses before checks; waits before other attempts are random
    assert texts(replies) == ["[2] > [1]"] * 8
    assert len(fine.asked) == 8
    assert sum(reply.retries for reply in replies) == len(down.asked) > 0
    assert len([w for w in caught if "does not answer" in str(w.message)]) == 1


def test_what_a_server_rejects_is_not_tried_elsewhere() -> None:
    with several([error(400, "too long")], [error(400, "too long")]) as (backend, servers, _):
        (reply,) = backend.generate([request()])
    assert reply.finish == "error"
    assert sum(len(server.asked) for server in servers) == 1


def test_a_server_that_is_down_at_the_start() -> None:
    with several([FINE]) as (_, (server,), waits):
        backend = Openai.over("m", [*map(Address.parse, (URLS[0], server.url))], sleep=waits)
        with pytest.warns(UserWarning, match="does not answer"):
            assert backend.tokens.context_size == 4096
        assert texts(backend.generate([request(f"q{n}") for n in range(4)])) == ["[2] > [1]"] * 4
        backend.close()


def test_no_server_at_all_names_each() -> None:
    backend = Openai.over("m", [*map(Address.parse, URLS)], sleep=Waits())
    with raises(BackendError, "127.0.0.1:1/v1", "127.0.0.1:2/v1", "--resume"):
        backend.generate([request()])
    with raises(BackendError, "127.0.0.1:1/v1", "127.0.0.1:2/v1"):
        _ = backend.tokens.context_size


def test_the_error_of_a_server_can_be_pickled() -> None:
    with raises(ServerUnavailableError) as caught:
        Openai("m", Address.parse(URLS[0]), sleep=Waits()).generate([request()])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.attempts, copy.is_silent) == (str(caught.value), 2, True)


def test_overload_everywhere_is_a_failed_reply_that_names_each() -> None:
    with several([DOWN], [DOWN]) as (backend, servers, _):
        (reply,) = backend.generate([request()])
        assert reply.finish == "error"
        assert all(server.root.removeprefix("http://") in reply.error for server in servers)
        assert sum(len(server.asked) for server in servers) >= 5  # as many attempts as with one server


def test_a_server_comes_back_after_a_check() -> None:
    with several([DOWN, FINE], [replace(FINE, wait=0.02)], concurrency=1) as (backend, (first, _), waits):
        for n in range(30):
            backend.generate([request(f"a{n}"), request(f"b{n}")])
    assert len(first.asked) > 5
    assert waits[0] == 1.0


def test_a_server_that_fails_again_when_its_check_ends_is_checked_again() -> None:
    waits = Waits()
    client = Openai.over("m", [*map(Address.parse, URLS)], sleep=waits).client
    server, failure = client.router.servers[0], ServerUnavailableError("no reply")

    async def fail_twice() -> None:
        end_rest = client.router.end_rest

        def end_rest_and_fail(server: RoutedServer) -> None:
            client.router.end_rest = end_rest  # type: ignore[method-assign]
            end_rest(server)
            # runs before the check is known to have ended, like a request that was sent earlier and fails only now
            asyncio.get_running_loop().call_soon(client.let_rest, server, failure)

        client.router.end_rest = end_rest_and_fail  # type: ignore[method-assign]
        client.let_rest(server, failure)
        while len(waits) < 2 or server.pause:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(fail_twice(), 5))


def test_different_context_sizes() -> None:
    sizes = [models("m", max_model_len=size) for size in (4096, 2048)]
    with (
        several([FINE], [FINE], listings=sizes) as (backend, _, _),
        pytest.warns(UserWarning, match="different context sizes"),
    ):
        assert backend.tokens.context_size == 2048


def test_cancelling_and_closing() -> None:
    slow = replace(FINE, wait=5.0)
    with several([slow, FINE], [slow, FINE], concurrency=1) as (backend, servers, _):

        async def cancel() -> None:
            tasks = [asyncio.create_task(backend.agenerate(request(f"q{n}"))) for n in range(6)]
            while sum(len(server.asked) for server in servers) < 2:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        started = time.perf_counter()
        asyncio.run(cancel())
        backend.close()
        assert texts(backend.generate([request("q0"), request("q1")])) == ["[2] > [1]"] * 2
        assert time.perf_counter() - started < 4


def test_it_can_be_pickled() -> None:
    backend = open_model_backend("openai:m", BackendOptions(base_url=URLS))
    copy = pickle.loads(pickle.dumps(backend))
    assert copy.identity == backend.identity


def test_a_rerank_api_on_several_servers() -> None:
    scores = raw({"results": [{"index": 0, "relevance_score": 0.5}]})
    prompt = (Message("user", "q"), Message("user", "d"))
    asked = Request(prompt=prompt, sampling=Sampling(max_tokens=1), task=CrossEncoderTask())
    with FaultyServer([DOWN], path="/v2/rerank") as down, FaultyServer([scores], path="/v2/rerank") as fine:
        options = BackendOptions(base_url=(down.root, fine.root))
        backend = open_model_backend("api:cohere/m", options)
        (reply,) = backend.generate([asked])
    assert (reply.scores, reply.retries) == ((0.5,), 1)
    assert re.fullmatch(r"127\.0\.0\.1:\d+ 127\.0\.0\.1:\d+", backend.identity["server"])


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
