"""Faults of models and clients: every accepted request gets an answer or a typed error, and the counters add up."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from rerank import Reranker
from rerank.backends.fake import Fake
from rerank.errors import BackendError
from rerank.pipeline.driver import Driver
from rerank.serving.settings import ServerSettings
from rerank.tasks import Reply, Request
from tests.serving.conftest import Client, wait_for_line

pytest.importorskip("fastapi")

BODY = {"query": "q", "documents": ["a", "b", "c"]}
PATHS: dict[str, dict[str, Any]] = {
    "/v2/rerank": BODY,
    "/rerank": BODY,
    "/sglang/v1/rerank": BODY,
    "/score": {"text_1": "q", "text_2": ["a", "b", "c"]},
    "/v1/decisions": {"input": "a", "questions": [{"type": "predicate", "instructions": "is it?"}]},
}


class Broken(Fake):
    def __init__(self, fault: Callable[[Sequence[Request]], Any]) -> None:
        super().__init__("reversed")
        self._fault = fault

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return list(self._fault(requests))


def throw(error: Exception) -> Callable[[Sequence[Request]], Any]:
    def fault(requests: Sequence[Request]) -> Any:
        raise error

    return fault


FAULTS: dict[str, tuple[Callable[[Sequence[Request]], Any], set[int]]] = {
    "dies": (throw(BackendError("the server is gone")), {503}),
    "out of memory": (throw(MemoryError()), {503}),
    "a bug": (throw(KeyError("secret text")), {500}),
    "a value error": (throw(ValueError("secret text")), {500}),
    "too few replies": (lambda requests: [], {200, 500}),
    "errors": (lambda requests: [Reply(finish="error", error="no memory") for _ in requests], {503}),
    "garbage": (lambda requests: [Reply(text="\x00\ud800 [9] > [9] 💥" * 99) for _ in requests], {200}),
    "nothing": (lambda requests: [Reply() for _ in requests], {200}),
    "no numbers": (lambda requests: [Reply(scores=(float("nan"),) * 3) for _ in requests], {200}),
}


def counts(service: Any) -> tuple[float, Counter[str]]:
    text = service.metrics.exposition().decode()
    accepted = sum(map(float, re.findall(r"^rerank_requests_accepted_total{.*} (\S+)$", text, re.M)))
    ended: Counter[str] = Counter()
    for status, count in re.findall(r'^rerank_requests_ended_total{.*status="(\w+)"} (\S+)$', text, re.M):
        ended[status] += int(float(count))
    return accepted, ended


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", PATHS)
def test_a_model_that_fails(client: Client, path: str, fault: str) -> None:
    act, statuses = FAULTS[fault]
    opened = client(Reranker.from_backend(Broken(act)))
    response = opened.post(path, json=PATHS[path])
    assert response.status_code in statuses, response.text
    assert "secret text" not in response.text
    body = response.json()
    if response.status_code == 200:
        json.dumps(body, allow_nan=False)
        rows = body if isinstance(body, list) else body.get("results") or body.get("data") or body["answers"]
        assert len(rows) == len(PATHS[path].get("documents", PATHS[path].get("text_2", "1")))
    else:
        assert body.get("message") or body["error"]["message"]
    assert (
        f'rerank_requests_ended_total{{path="{path}",status="{response.status_code}"}} 1.0'
        in opened.get("/metrics").text
    )


@pytest.mark.parametrize("path", PATHS)
def test_the_log_of_a_bug_has_its_place_and_no_texts(
    client: Client, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(requests: Sequence[Request]) -> Any:
        try:
            raise ValueError("secret text")
        except ValueError as error:
            raise KeyError("secret text of a document") from error

    assert client(Reranker.from_backend(Broken(fault))).post(path, json=PATHS[path]).status_code == 500
    assert "builtins.KeyError" in caplog.text
    assert "builtins.ValueError" in caplog.text
    assert "in generate" in caplog.text
    assert "secret text of" not in re.sub(r"raise .*", "", caplog.text)


@pytest.mark.enable_socket
def test_the_server_itself_logs_no_texts_of_a_bug(
    address: Callable[..., str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    message = "".join(["secret", " ", "text"])  # a traceback shows the lines of the program
    url, _ = serve(address, Reranker.from_backend(Broken(throw(KeyError(message)))))
    assert httpx2.post(f"{url}/v2/rerank", json=BODY, timeout=20).status_code == 500
    assert "builtins.KeyError" in caplog.text
    printed = capfd.readouterr()
    assert "secret text" not in caplog.text + printed.out + printed.err
    assert "Traceback" not in printed.err


def serve(address: Callable[..., str], reranker: Reranker, **settings: Any) -> tuple[str, Any]:
    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service

    service = create_ranking_service(reranker, ServerSettings(**settings))
    return address(create_server_app(service)), service


@pytest.mark.enable_socket
@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/decisions"])
def test_a_model_that_hangs(address: Callable[..., str], path: str) -> None:
    """The clients get 504, those that wait for a turn too, and the server goes on."""
    ended = threading.Event()
    hanging = Broken(lambda requests: ended.wait(20) and [Reply(text="[1]") for _ in requests])
    url, service = serve(address, Reranker.from_backend(hanging), timeout=0.5, max_active=1)
    try:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: httpx2.post(f"{url}{path}", json=PATHS[path], timeout=20), range(3)))
        assert [response.status_code for response in found] == [504] * 3
        assert httpx2.get(f"{url}/health").status_code == 200
        wait_for_line(service, f'rerank_requests_ended_total{{path="{path}",status="504"}} 3.0')
        assert (service.queue.active, service.queue.waiting) == (0, 0)
    finally:
        ended.set()


@pytest.mark.enable_socket
def test_counters_add_up_over_answers_refusals_and_clients_that_leave(address: Callable[..., str]) -> None:
    reranker = Reranker.from_pretrained("fake-server:reversed,delay=0.3,concurrency=64")
    url, service = serve(address, reranker, max_active=4, max_waiting=4)
    headers = {"Content-Type": "application/json"}

    def ask(number: int) -> str:
        timeout = 0.1 if number % 4 == 0 else 20
        content = b"{" if number % 4 == 1 else json.dumps(BODY)
        path = "/nothing" if number % 8 == 2 else "/v2/rerank"
        try:
            return str(httpx2.post(f"{url}{path}", content=content, headers=headers, timeout=timeout).status_code)
        except httpx2.TimeoutException:
            return "cancelled"

    with ThreadPoolExecutor(24) as pool:
        seen = Counter(pool.map(ask, range(48)))
    for _ in range(100):
        accepted, ended = counts(service)
        if sum(ended.values()) == 48:
            break
        time.sleep(0.05)
    assert accepted == sum(ended.values()) == 48
    # A client that gives up while it connects, or just before its answer, sees another end than the server.
    assert ended.keys() <= {"200", "400", "404", "429", "cancelled"}
    assert all(ended[status] >= seen[status] for status in ("200", "400", "404", "429"))
    assert (service.queue.active, service.queue.waiting) == (0, 0)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], str]]]:
    """Return a function that starts a server which gives its requests two seconds when it is stopped."""
    processes: list[subprocess.Popen[str]] = []

    def start(model: str) -> tuple[subprocess.Popen[str], str]:
        program = (
            "import time\n"
            "from rerank import Reranker\n"
            "from rerank.backends.fake import Fake\n"
            "from rerank.serving.app import create_server_app\n"
            "from rerank.serving.ranking_service import create_ranking_service\n"
            "from rerank.serving.running import Listener, run_server\n"
            "class Hanging(Fake):\n"
            "    def generate(self, requests):\n"
            "        time.sleep(60)\n"
            f"service = create_ranking_service({model})\n"
            "say = lambda line: print(line, flush=True)\n"
            "run_server(create_server_app(service), Listener(), announce=say, grace=2)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        )
        processes.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("model", "allowed"),
    [
        ("Reranker.from_pretrained('fake-server:reversed,delay=0.4,concurrency=4')", {200, 503}),
        ("Reranker.from_backend(Hanging('reversed'))", {503}),
    ],
)
def test_sigterm_under_load(stopped: Any, model: str, allowed: set[int]) -> None:
    """Every request that was accepted ends with an answer or with 503, and the process ends, also if a model hangs."""
    process, url = stopped(model)

    def ask(number: int) -> int:
        return httpx2.post(f"{url}/v2/rerank", json=BODY, timeout=30).status_code

    with ThreadPoolExecutor(32) as pool:
        answers = [pool.submit(ask, number) for number in range(32)]
        time.sleep(1.2)  # all have been accepted
        process.send_signal(signal.SIGTERM)
        statuses = Counter(answer.result(timeout=30) for answer in answers)
    assert sum(statuses.values()) == 32
    assert statuses.keys() <= allowed, statuses
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)


@pytest.mark.enable_socket
def test_a_second_ctrl_c_ends_the_process_while_the_model_is_in_a_batch(stopped: Any) -> None:
    """Shutting down Python would abort it there: the native code of a real model cannot end its thread."""
    process, url = stopped("Reranker.from_backend(Hanging('reversed'))")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx2.post, f"{url}/v2/rerank", json=BODY, timeout=30)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert answer.result(timeout=30).status_code == 503
    _, messages = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in messages


class CountingTokens:
    """A token counter that records how many characters it has counted."""

    context_size = 10_000_000

    def __init__(self) -> None:
        self.counted = 0

    def lengths(self, texts: list[str]) -> list[int]:
        self.counted += sum(map(len, texts))
        return list(map(len, texts))


def test_counting_stops_at_the_limit() -> None:
    from rerank.serving.errors import ApiError
    from rerank.serving.ranking_service import create_ranking_service

    service = create_ranking_service(Reranker.from_pretrained("fake:reversed"), ServerSettings())
    tokens = CountingTokens()
    counted = replace(service, reranker=replace(service.reranker, backend=SimpleNamespace(tokens=tokens)))
    with pytest.raises(ApiError, match="tokens or more; expected at most 1000000"):
        asyncio.run(counted.check_tokens(["a" * 900_000, "b" * 9_000_000]))
    assert tokens.counted < 1_500_000
    tokens.counted = 0
    asyncio.run(counted.check_tokens(["a" * 900_000, "b" * 99_999, "c"]))
    assert tokens.counted == 1_000_000


def test_prompts_of_large_lists_are_made_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rankings of a model behind a network run on the event loop, which must go on while a prompt is rendered."""
    threads: list[str] = []
    next_requests = Driver.next_requests

    def watched(driver: Driver, count: int) -> Any:
        threads.append(threading.current_thread().name)
        return next_requests(driver, count)

    monkeypatch.setattr(Driver, "next_requests", watched)
    reranker = Reranker.from_pretrained("fake-server:reversed")
    for size, is_on_loop in ((10, True), (20_000, False)):
        threads.clear()
        hits = asyncio.run(reranker.arank("q", ["a" * size, "b" * size, "c" * size]))
        assert [hit.corpus_id for hit in hits] == [2, 1, 0]
        assert {thread == "rerank-background-loop" for thread in threads} == {is_on_loop}
