"""The server behind a socket: clients that leave, many at once, deadlines, shutdown, and the command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rerank import Reranker
from rerank.errors import UsageError
from rerank.serving.settings import ServerSettings
from tests.raising import raises

pytest.importorskip("fastapi")

from rerank.cli.serve import LimitOptions, ServerOptions, open_served_ranker, served_name
from rerank.serving.app import create_server_app
from rerank.serving.ranking_service import create_ranking_service
from rerank.serving.running import Listener

pytestmark = pytest.mark.enable_socket


def serve(address: Callable[..., str], model: str, **settings: Any) -> tuple[str, Any]:
    service = create_ranking_service(Reranker.from_pretrained(model), ServerSettings(**settings))
    return address(create_server_app(service)), service


def body(number: int) -> dict[str, Any]:
    return {"query": f"q{number}", "documents": [f"text {number} {n}" for n in range(4)], "return_documents": True}


def test_many_clients_get_their_own_answers(address: Callable[..., str]) -> None:
    url, service = serve(address, "fake-server:reversed,delay=0.2,concurrency=64", max_active=64)

    def ask(number: int) -> list[str]:
        answer = httpx2.post(f"{url}/v2/rerank", json=body(number), timeout=20).json()
        return [row["document"]["text"] for row in answer["results"]]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(64)))
    assert answers == [[f"text {number} {n}" for n in (3, 2, 1, 0)] for number in range(64)]
    assert (service.queue.active, service.queue.waiting) == (0, 0)


def test_a_client_that_leaves_frees_its_slot(address: Callable[..., str]) -> None:
    url, service = serve(address, "fake-server:reversed,delay=30", max_active=1)
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(f"{url}/v2/rerank", json=body(0), timeout=0.5)
    cancelled = 'rerank_requests_ended_total{path="/v2/rerank",status="cancelled"} 1.0'
    end = time.monotonic() + 20
    while cancelled not in service.metrics.exposition().decode():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert service.queue.active == 0


def test_a_full_queue(address: Callable[..., str]) -> None:
    url, _ = serve(address, "fake-server:reversed,delay=1", max_active=1, max_waiting=0)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: httpx2.post(f"{url}/rerank", json=body(number), timeout=20), range(4)))
    statuses = sorted(response.status_code for response in found)
    assert statuses == [200, 429, 429, 429]
    refused = next(response for response in found if response.status_code == 429)
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"


@pytest.fixture
def command(tmp_path: Path) -> Any:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "rerank", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "RERANK_SERVER_KEYS": "key"},
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(timeout=10)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_the_command_finishes_accepted_requests_when_it_is_stopped(command: Any) -> None:
    process, url = command("--model", "fake-server:reversed,delay=2")
    assert url.startswith("http://127.0.0.1:")
    found: list[httpx2.Response] = []
    headers = {"Authorization": "Bearer key"}

    def ask() -> None:
        found.append(httpx2.post(f"{url}/v2/rerank", json=body(1), headers=headers, timeout=20))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    thread.join(timeout=20)
    assert [row["index"] for row in found[0].json()["results"]] == [3, 2, 1, 0]
    assert process.wait(timeout=20) in (0, -signal.SIGTERM)
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        ("fake-server:reversed,delay=20", 130, "Stopped.\n"),
        ("fake:reversed,delay=20", -signal.SIGINT, ""),  # the model is in a batch, so the signal ends the process
    ],
)
def test_a_second_signal_answers_accepted_requests_at_once(command: Any, model: str, code: int, message: str) -> None:
    process, url = command("--model", model)
    headers = {"Authorization": "Bearer key"}
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(httpx2.post, f"{url}/v2/rerank", json=body(n), headers=headers, timeout=30) for n in range(2)
        ]
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        assert "2 requests" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        for future in asked:
            assert future.result().status_code == 503
            assert "stopping" in future.result().json()["message"]
    assert process.wait(timeout=10) == code
    assert process.stderr.read() == message


def test_a_head_of_any_size_is_not_stored(command: Any) -> None:
    process, url = command("--model", "fake:reversed")
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        answer = b""
        for _ in range(100):
            try:
                connection.sendall(b"x" * 65_536)
            except ConnectionError:
                break
            time.sleep(0.01)
        else:
            pytest.fail("the server reads on")
        with suppress(ConnectionError):
            answer = connection.recv(1000)
    assert not answer or answer.startswith(b"HTTP/1.1 400")
    assert httpx2.get(f"{url}/health").status_code == 200
    process.terminate()


def head(path: str = "/v2/rerank", key: str = "key", **headers: str) -> bytes:
    lines = {"Host": "localhost", "Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    return "".join(
        [f"POST {path} HTTP/1.1\r\n", *(f"{k.replace('_', '-')}: {v}\r\n" for k, v in lines.items())]
    ).encode()


def connect(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)


def test_trailers_are_allowed_but_not_stored(command: Any) -> None:
    process, url = command("--model", "fake:reversed")
    content = json.dumps(body(1)).encode()
    chunked = b"\r\n%x\r\n%b\r\n0\r\n" % (len(content), content)
    with connect(url) as connection:
        sent = head(Connection="close", Transfer_Encoding="chunked") + chunked
        connection.sendall(sent + b"Authorization: Bearer wrong\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"200"
    for key in ("key", "wrong"):
        with connect(url) as connection:
            connection.sendall(head(key=key, Transfer_Encoding="chunked") + chunked)
            for _ in range(100):
                try:
                    connection.sendall(b"a:b\r\n" * 13_000)
                except ConnectionError:
                    break
                time.sleep(0.01)
            else:
                pytest.fail("the server reads on")
    assert httpx2.get(f"{url}/health").status_code == 200
    process.terminate()
    assert "Traceback" not in process.stderr.read()


def test_a_client_that_ends_its_side_gets_its_answer_if_it_still_reads(command: Any) -> None:
    """A client that sends FIN may still read (it half-closes), or be gone: only the latter frees its slot."""
    process, url = command("--model", "fake-server:reversed,delay=1", "--max-active", "1")
    content = json.dumps(body(1)).encode()
    sent = head(Content_Length=str(len(content))) + b"\r\n" + content
    for request, is_answered in ((sent, True), (sent.replace(b"HTTP/1.1", b"HTTP/1.0"), True), (sent[:-5], False)):
        with connect(url) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").read()
        assert (b" 200 OK" in answer and b'"results"' in answer) == is_answered, answer
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200") == (request is sent)
    with connect(url) as connection:
        connection.sendall(sent)
        time.sleep(0.3)
    cancelled = 'rerank_requests_ended_total{path="/v2/rerank",status="cancelled"} 1.0'
    end = time.monotonic() + 20
    while cancelled not in (found := httpx2.get(f"{url}/metrics", headers={"Authorization": "Bearer key"}).text):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    process.terminate()
    assert "Traceback" not in process.stderr.read()


def test_connections_above_the_limit_get_503(command: Any) -> None:
    process, url = command("--model", "fake:reversed", "--max-connections", "2")
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as second:
        time.sleep(0.3)
        refused = httpx2.post(f"{url}/v2/rerank", json=body(1) | {"more": "x" * 10_000_000}, timeout=10)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["error"]["type"] == "service_unavailable"
        second.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")  # open connections are served
        assert second.recv(100).startswith(b"HTTP/1.1 200")
    time.sleep(0.3)
    assert httpx2.get(f"{url}/health").status_code == 200
    process.terminate()
    assert process.communicate(timeout=10)[1].count("--max-connections") == 1


@pytest.mark.parametrize(
    ("host", "named"),
    [("nosuch.invalid", ("resolved", "--host")), ("203.0.113.1", ("address of this machine", "--host"))],
)
def test_an_address_that_cannot_be_used(host: str, named: tuple[str, ...]) -> None:
    with raises(UsageError, host, *named):
        Listener(host=host).open_socket()


def test_a_port_that_is_taken() -> None:
    with Listener().open_socket() as taken:
        port = taken.getsockname()[1]
        with raises(UsageError, port, "--port"):
            Listener(port=port).open_socket()


def test_the_name_of_the_model_includes_the_adapter() -> None:
    server = ServerOptions(host="0.0.0.0", allowed_host=["rerank.example"])
    service = open_served_ranker({"model": "fake:reversed", "adapter": ""}, server, LimitOptions())
    assert service.settings.name == "fake:reversed"
    assert {"rerank.example", "0.0.0.0"} < set(service.settings.allowed_hosts)
    assert served_name({"model": "base", "adapter": "lora"}) == "base+lora"
    assert served_name({}) == "listrank"


def test_search_over_a_collection(command: Any, tmp_path: Path) -> None:
    rows = [{"_id": f"d{n}", "text": text} for n, text in enumerate(["snow falls", "rain falls", "the sun shines"])]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    _, url = command("--model", "fake:reversed", "--collection", "jsonl:docs.jsonl")
    headers = {"Authorization": "Bearer key"}
    answer = httpx2.post(f"{url}/v1/search", json={"query": "falls snow", "top_k": 2}, headers=headers).json()
    assert [row["id"] for row in answer["results"]] == ["d1", "d0"]  # the reverse of BM25's order
    assert [row["first_stage_rank"] for row in answer["results"]] == [2, 1]
    assert answer["results"][0]["text"] == "rain falls"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--model", "fake:nosuch"), 2),
        (("--model", "fake:reversed", "--max-documents", "0"), 2),
        (("--model", "fake:reversed", "--keys-file", "missing"), 4),
        (("--model", "fake:reversed", "--collection", "jsonl:missing.jsonl"), 4),
        (("--model", "fake:reversed", "--host", "203.0.113.1"), 2),
        (("--model", "fake:reversed", "--host", "nosuch.invalid"), 2),
        (("--method", "sliding", "--model", "openai:m", "--base-url", "http://127.0.0.1:9/v1"), 6),
    ],
)
def test_wrong_options(command: Any, arguments: tuple[str, ...], code: int) -> None:
    process, line = command(*arguments)
    assert line == ""
    assert process.wait(timeout=30) == code
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(("options", "address"), [((), "127.0.0.1"), (("--trust-proxy",), "203.0.113.7")])
def test_addresses_of_a_proxy_are_trusted_if_asked(command: Any, options: tuple[str, ...], address: str) -> None:
    process, url = command("--model", "fake:reversed", "--access-log", "text", *options)
    httpx2.get(f"{url}/health", headers={"X-Forwarded-For": "203.0.113.7"})
    process.terminate()
    stdout, stderr = process.communicate(timeout=30)
    assert f"{address}:" in stdout + stderr
