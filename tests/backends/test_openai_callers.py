"""One backend and many callers: threads, event loops, processes; one pool of connections, kept, closed and reopened."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.base.addresses import Address
from rerank.backends.base.responses import FIRST_TRIES, ServerUnavailableError
from rerank.backends.openai import Openai
from rerank.errors import BackendError, UsageError
from rerank.prompts.base import Message
from rerank.store import CallLog, log_calls
from rerank.store.logging_backend import AsyncLoggingBackend
from rerank.tasks import AsyncBackend, BackendOptions, Reply, Request, Sampling
from rerank.tasks.concurrency import run_on_loop
from tests.backends.faulty_server import Act, Answer, FaultyServer, Waits, error, models, raw, said
from tests.raising import raises

pytestmark = pytest.mark.enable_socket

FINE = said("[2] > [1]")
SOON = replace(FINE, wait=0.02)
NEVER = replace(FINE, wait=60.0)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RERANK_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def request(text: str = "Rank.") -> Request:
    return Request(prompt=(Message("user", text),), sampling=Sampling(max_tokens=9))


def test_a_reply_without_content_is_committed_if_its_repetition_is_cancelled(tmp_path: Path) -> None:
    with FaultyServer([said(None), NEVER]) as server, CallLog(tmp_path / "calls") as log:
        logged = log_calls(connect(server), log)
        assert isinstance(logged, AsyncLoggingBackend)

        async def interrupted() -> None:
            task = asyncio.create_task(logged.agenerate(request()))
            while len(server.asked) < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        run_on_loop(interrupted())
        assert (len(log), logged.usage.calls, len(server.asked)) == (1, 1, 2)
        (reply,) = logged.generate([request()])
        assert (reply.reused, bool(reply.error), len(server.asked)) == (True, True, 2)


def connect(server: FaultyServer, **options: Any) -> Openai:
    return Openai("m", Address.parse(server.url), options=BackendOptions(**options), sleep=Waits())


def answer(backend: Openai, count: int = 1) -> list[Reply]:
    """Replies to requests that one event loop sends at the same time."""

    async def together() -> list[Reply]:
        return await asyncio.gather(*(backend.agenerate(request()) for _ in range(count)))

    return asyncio.run(together())


def wait_until(holds: Callable[[], bool]) -> None:
    """What a server notices takes a moment."""
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.002)


def unused_url() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/v1"


def python(code: str, server: FaultyServer, warnings: str) -> str:
    """Run code with a backend and a request in a new interpreter that has nothing to complain about."""
    code = f"""
import os, sys
from rerank.backends.openai import Openai
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, Request, Sampling
request = Request(prompt=(Message("user", "Rank."),), sampling=Sampling(max_tokens=9))
backend = Openai.connect("m", BackendOptions(base_url={server.url!r}))
{code}"""
    done = subprocess.run([sys.executable, "-W", warnings, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


class TestManyCallers:
    def test_threads_share_the_limit_the_connections_and_the_inspection(self) -> None:
        with FaultyServer([SOON]) as server, ThreadPoolExecutor(32) as pool:
            backend = connect(server, concurrency=4)
            replies = [*pool.map(lambda _: backend.generate([request(), request()]), range(32))]
            assert [reply.text for pair in replies for reply in pair] == ["[2] > [1]"] * 64
            assert server.most == 4
            assert server.connections <= 4
            assert server.looked == ["/v1/models"]

    def test_event_loops_share_them_too(self) -> None:
        with FaultyServer([SOON]) as server, ThreadPoolExecutor(4) as pool:
            backend = connect(server, concurrency=3)
            assert isinstance(backend, AsyncBackend)
            replies = [*pool.map(lambda _: answer(backend, 8), range(4))]
            assert sum(map(len, replies)) == 32
            assert server.most == 3
            assert server.connections <= 3
            assert server.looked == ["/v1/models"]

    def test_eight_at_once_take_as_long_as_one(self) -> None:
        """No request is answered before all have arrived, so none waits for another."""
        all_here = threading.Barrier(8)

        def together(_: dict[str, Any]) -> Act:
            all_here.wait(10)
            return FINE

        with FaultyServer([together]) as server:
            assert len(answer(connect(server, concurrency=8), 8)) == 8

    @pytest.mark.parametrize("way", ["generate", "agenerate"])
    def test_a_slow_reply_holds_back_no_other(self, way: str) -> None:
        """The slow reply comes after all others have been sent, through the one other connection."""
        others = threading.Semaphore(0)

        def act(body: dict[str, Any]) -> Act:
            if body["messages"][0]["content"] != "slow":
                others.release()
                return FINE
            return FINE if all(others.acquire(timeout=10) for _ in range(15)) else error(400, "the others did not come")

        requests = [request("slow"), *[request()] * 15]
        with FaultyServer([act]) as server:
            backend = connect(server, concurrency=2)
            if way == "generate":
                replies = backend.generate(requests)
            else:
                with ThreadPoolExecutor(16) as pool:
                    replies = [*pool.map(lambda asked: asyncio.run(backend.agenerate(asked)), requests)]
        assert [reply.error for reply in replies] == [""] * 16

    def test_seconds_are_those_of_the_reply(self) -> None:
        with FaultyServer([lambda body: replace(FINE, wait=0.3 if "slow" in str(body) else 0.0)]) as server:
            backend = connect(server, concurrency=1)

            async def together() -> list[Reply]:
                return await asyncio.gather(*(backend.agenerate(request(text)) for text in ("slow", "fast", "fast")))

            started = time.perf_counter()
            slow, fast, last = run_on_loop(together())
            assert slow.seconds >= 0.3
            assert max(fast.seconds, last.seconds) < slow.seconds
            assert slow.seconds + fast.seconds + last.seconds <= time.perf_counter() - started

    def test_calls_on_the_background_loop(self) -> None:
        with FaultyServer([FINE]) as server:
            backend = connect(server)

            async def blocking() -> list[Reply]:
                return backend.generate([request()])

            with raises(UsageError, "background event loop"):
                run_on_loop(blocking())
            assert run_on_loop(backend.agenerate(request())).text == "[2] > [1]"

    def test_a_server_that_is_not_there_is_tried_once_for_all(self) -> None:
        waits = Waits()
        backend = Openai("m", Address.parse(unused_url()), sleep=waits)

        async def eight() -> list[Reply | BaseException]:
            calls = (backend.agenerate(request()) for _ in range(8))
            return await asyncio.gather(*calls, return_exceptions=True)

        failures = run_on_loop(eight())
        assert [type(failure) for failure in failures] == [ServerUnavailableError] * 8
        assert len(waits) == FIRST_TRIES - 1


class TestCancelling:
    @staticmethod
    async def cancel(backend: Openai, when: Callable[[], bool]) -> None:
        task = asyncio.create_task(backend.agenerate(request()))
        await asyncio.to_thread(wait_until, when)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def test_the_request_ends_and_its_slot_is_free(self) -> None:
        with FaultyServer([FINE, NEVER, FINE]) as server:
            backend = connect(server, concurrency=1)
            answer(backend)
            asyncio.run(self.cancel(backend, lambda: len(server.asked) == 2))
            assert [reply.text for reply in answer(backend, 3)] == ["[2] > [1]"] * 3
            assert server.connections == 2  # the first was closed, since its reply was still to come

    def test_the_wait_for_another_attempt_ends(self) -> None:
        waiting = threading.Event()

        async def sleep(seconds: float) -> None:
            waiting.set()
            await asyncio.sleep(60)

        with FaultyServer([error(429, headers={"Retry-After": "100"}), FINE]) as server:
            backend = Openai("m", Address.parse(server.url), sleep=sleep, options=BackendOptions(concurrency=1))
            asyncio.run(self.cancel(backend, waiting.is_set))
            assert [reply.text for reply in answer(backend)] == ["[2] > [1]"]
            assert len(server.asked) == 2

    def test_the_inspection_ends(self) -> None:
        with FaultyServer([FINE], listing=replace(models("m"), wait=60.0)) as server:
            backend = connect(server)
            asyncio.run(self.cancel(backend, lambda: len(server.looked) == 1))
            server.gets["/v1/models"] = models("m", max_model_len=77)
            assert backend.tokens.context_size == 77
            assert len(server.looked) == 2

    def test_many_cancelled_requests_leave_no_connection(self) -> None:
        with FaultyServer([replace(FINE, wait=0.005)]) as server:
            backend = connect(server, concurrency=4)

            async def cancel_some() -> None:
                for at in range(20):
                    tasks = [asyncio.create_task(backend.agenerate(request())) for _ in range(8)]
                    await asyncio.sleep(0.001 * at)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

            asyncio.run(cancel_some())
            answer(backend, 4)
            wait_until(lambda: len(server.open) <= 4)
            backend.close()
            wait_until(lambda: not server.open)


class TestConnections:
    def test_they_are_kept_between_calls(self) -> None:
        with FaultyServer([FINE]) as server:
            backend = connect(server)
            assert backend.tokens.context_size == 4096
            for _ in range(3):
                backend.generate([request()])
                answer(backend)
            assert server.connections == 1

    def test_closing_ends_them_and_the_next_call_opens_them(self) -> None:
        with FaultyServer([FINE]) as server:
            backend = connect(server)
            backend.close()  # nothing is open yet
            for close in (backend.close, lambda: asyncio.run(backend.aclose()), lambda: run_on_loop(backend.aclose())):
                assert backend.generate([request()])[0].text == "[2] > [1]"
                close()
                close()
                wait_until(lambda: not server.open)
            assert server.connections == 3
            assert server.looked == ["/v1/models"]

    def test_closing_while_a_request_is_in_progress(self) -> None:
        with FaultyServer([NEVER]) as server, ThreadPoolExecutor(1) as pool:
            backend = connect(server)
            future = pool.submit(backend.generate, [request()])
            wait_until(lambda: len(server.asked) == 1)
            backend.close()
            with raises(BackendError, "closed"):
                future.result(10)
            server.acts = [FINE]
            assert backend.generate([request()])[0].text == "[2] > [1]"

    def test_a_backend_that_is_dropped_closes_them(self) -> None:
        with FaultyServer([FINE]) as server:
            connect(server).generate([request()])
            gc.collect()
            wait_until(lambda: not server.open)

    def test_a_connection_that_the_server_has_closed_is_not_used(self) -> None:
        with FaultyServer([FINE]) as server:
            backend = connect(server)
            backend.generate([request()])
            (connection,) = server.open
            connection.shutdown(socket.SHUT_RDWR)
            wait_until(lambda: not server.open)
            assert backend.generate([request()])[0].text == "[2] > [1]"
            assert (server.connections, len(server.asked)) == (2, 2)  # nothing was sent in vain

    def test_a_server_that_starts_again(self) -> None:
        with FaultyServer([FINE]) as server:
            backend = connect(server)
            backend.generate([request()])
        with raises(BackendError, server.url, "--resume"):
            asyncio.run(backend.agenerate(request()))
        assert backend._sleep == pytest.approx([1.5, 2.5, 4.5, 8.5], abs=0.6)  # it was there before

    def test_a_key_is_read_for_every_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with FaultyServer([FINE]) as server:
            backend = connect(server)
            for key in ("sk-first", "sk-second"):
                monkeypatch.setenv("OPENAI_API_KEY", key)
                backend.generate([request()])
            assert server.keys == ["Bearer sk-first", "Bearer sk-second"]
            assert server.connections == 1

    def test_a_process_that_ends_closes_them(self) -> None:
        with FaultyServer([FINE]) as server:
            assert python("print(backend.generate([request])[0].text)", server, "error") == "[2] > [1]"
            wait_until(lambda: not server.open)

    def test_a_forked_process_has_its_own_and_leaves_its_parents_alone(self) -> None:
        code = """
outcomes = [backend.generate([request])[0].text]
if not (child := os.fork()):
    sys.exit(backend.generate([request])[0].text != outcomes[0])
outcomes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if not (child := os.fork()):
    backend.close()
    sys.exit(0)
outcomes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print([*outcomes, backend.generate([request])[0].text])
"""
        with FaultyServer([FINE]) as server:
            # Python says that a fork with threads is deprecated, and that the fork leaves its parent's sockets open.
            assert python(code, server, "ignore") == "['[2] > [1]', 0, 0, '[2] > [1]']"
            assert server.connections == 2
            assert server.looked == ["/v1/models"]  # what is known of the server is known in the fork
            wait_until(lambda: not server.open)


class TestRetries:
    @staticmethod
    def outcome(acts: Sequence[Answer], **options: Any) -> tuple[str, int]:
        """How it finished, and the number of attempts."""
        waits = Waits()
        with FaultyServer(list(acts)) as server:
            backend = Openai("m", Address.parse(server.url), options=BackendOptions(**options), sleep=waits)
            (reply,) = backend.generate([request()])
            return reply.finish, 1 + len(waits)

    @pytest.mark.parametrize("retries", [0, 1, 7])
    def test_so_many_attempts_after_the_first(self, retries: int) -> None:
        assert self.outcome([error(503)], retries=retries) == ("error", 1 + retries)
        assert self.outcome([error(503)] * retries + [FINE], retries=retries) == ("stop", 1 + retries)

    def test_a_slow_server(self) -> None:
        assert self.outcome([NEVER], retries=2, timeout=0.15) == ("error", 3)

    @pytest.mark.parametrize("act", [error(400), error(429, headers={"Retry-After": "3600"})])
    def test_what_cannot_help_is_not_tried(self, act: Act) -> None:
        assert self.outcome([act], retries=3) == ("error", 1)

    def test_a_server_that_is_not_there(self) -> None:
        waits = Waits()
        backend = Openai("m", Address.parse(unused_url()), options=BackendOptions(retries=3), sleep=waits)
        with raises(BackendError, "--base-url"):
            backend.generate([request()])
        assert len(waits) == 3

    def test_fewer_than_none(self) -> None:
        with raises(UsageError, "retries = -1"):
            BackendOptions(retries=-1)


class TestFailures:
    """What concerns all requests is raised, what concerns one is its reply."""

    @pytest.mark.parametrize(
        "act", [error(401), error(403), error(402), error(429, code="insufficient_quota"), error(404), error(405)]
    )
    def test_of_all_requests(self, act: Act) -> None:
        with FaultyServer([act]) as server, raises(BackendError, f"HTTP {act.status}"):
            asyncio.run(connect(server).agenerate(request()))

    @pytest.mark.parametrize("act", [error(400), error(500), error(422), Act(close=True), raw({"error": "no"})])
    def test_of_one_request(self, act: Act) -> None:
        with FaultyServer([act]) as server:
            (reply,) = answer(connect(server))
        assert (reply.finish, bool(reply.error)) == ("error", True)
        assert reply.seconds > 0

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refusal_after_replies(self, status: int) -> None:
        """Gateways answer 403 to what their filters do not like; a key that is no longer valid ends a run."""
        with FaultyServer([FINE, error(status, "flagged"), FINE]) as server:
            backend = connect(server)
            answer(backend)
            if status == 401:
                with raises(BackendError, "flagged"):
                    answer(backend)
            else:
                assert "flagged" in answer(backend)[0].error
            assert answer(backend)[0].finish == "stop"


def test_cached_tokens_are_counted() -> None:
    body = json.loads(FINE.body)
    body["usage"]["prompt_tokens_details"] = {"cached_tokens": 48}
    with FaultyServer([raw(body), FINE]) as server:
        first, second = connect(server, concurrency=1).generate([request(), request()])
    assert (first.tokens_in, first.tokens_cached, second.tokens_cached) == (50, 48, 0)
