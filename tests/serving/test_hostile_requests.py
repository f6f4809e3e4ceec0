"""Requests that are hostile in their bodies, headers and paths, or sent to foreign host names."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import pytest

from rerank import Reranker
from rerank.backends.fake import Fake
from rerank.serving.settings import ServerSettings
from rerank.tasks import Reply, Request
from tests.serving.conftest import Client, wait_for_line

pytest.importorskip("fastapi")

JSON = {"Content-Type": "application/json"}
PREDICATE = b'{"type": "predicate", "instructions": "is it?"}'


def deep(depth: int) -> bytes:
    return b'{"a": ' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/rerank", b'{"query": "\\ud800", "documents": ["\\udfff a", "b"], "return_documents": true}', 200),
        ("/rerank", b'{"query": "q", "documents": [{"text": "\\udfff"}, {"\\ud800": "b"}]}', 200),
        ("/rerank", b'{"query": "q", "texts": ["\\udfff a"], "return_text": true}', 200),
        ("/sglang/v1/rerank", b'{"query": "q", "documents": ["a"], "model": "\\ud800\\r\\nX: y"}', 200),
        ("/score", b'{"text_1": "\\ud800", "text_2": "\\ud800"}', 200),
        ("/v1/decisions", b'{"input": "\\ud800", "questions": [' + PREDICATE + b"]}", 200),
        (
            "/v1/decisions",
            b'{"input": "a", "questions": [{"type": "choice", "name": "\\ud800", "instructions": "\\ud800",'
            b' "choices": [{"value": "\\ud800"}, {"value": true}]}]}',
            200,
        ),
        ("/v2/rerank", b'{"query": "a\\u0000b", "documents": ["\\u0000", ""]}', 200),
        ("/v2/rerank", b'{"query": "q", "documents": ["a", "b"], "top_n": 1' + b"0" * 300 + b"}", 200),
        ("/v2/rerank", b'{"query": "q", "documents": ["a", "b"], "max_tokens_per_doc": 1' + b"0" * 300 + b"}", 200),
        ("/v2/rerank", b'{"query": "q", "documents": ["a", "b"], "deadline_ms": 1e-320}', 200),
        ("/v2/rerank", b'{"query": "q", "documents": [{"text": "x", "more": ' + deep(800) + b"}]}", 200),
        ("/v2/rerank", b'{"query": "q", "documents": [' + deep(800) + b"]}", 422),
        ("/v2/rerank", b'{"query": "q", "documents": ' + b"[" * 900 + b"]" * 900 + b"}", 422),
        ("/v2/rerank", b'{"query": "q", "documents": ["a"], "scores": [1e400]}', 422),
        ("/v2/rerank", b'{"query": "q", "documents": [' + b'"a",' * 99_999 + b'"a"]}', 413),
        ("/v1/decisions", b'{"input": [{"type": "image"}], "questions": [' + PREDICATE + b"]}", 422),
        (
            "/v1/decisions",
            b'{"input": ' + b'[{"content": ' * 450 + b'"a"' + b"}]" * 450 + b', "questions": [' + PREDICATE + b"]}",
            200,
        ),
    ],
)
def test_a_hostile_body(client: Client, path: str, body: bytes, status: int) -> None:
    response = client().post(path, content=body, headers=JSON)
    assert response.status_code == status, response.text
    response.content.decode("utf-8")
    if status == 200:
        json.dumps(response.json(), allow_nan=False)


def test_the_limits_hold_for_pairs_and_decisions(client: Client) -> None:
    opened = client(max_documents=10, max_request_tokens=1000)
    pairs = {"queries": [f"q{n}" for n in range(11)], "documents": ["a"] * 11}
    decisions = {"input": "word " * 100, "questions": [json.loads(PREDICATE)] * 11}
    for path, body in (("/score", pairs), ("/v1/decisions", decisions)):
        response = opened.post(path, json=body)
        assert response.status_code == 413, response.text


class Talkative(Fake):
    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        replies = super().generate(requests)
        return replies if len(self.served) > 1 else [Reply(finish="error", error="línea\r\nX-Evil: 1\x00")]


def test_warnings_stay_one_line_of_a_header(client: Client) -> None:
    reranker = Reranker.from_backend(Talkative("reversed"), method="sliding,size=2,stride=1")
    response = client(reranker).post("/rerank", json={"query": "q", "texts": ["a", "b", "c"]})
    assert response.status_code == 200, response.text
    warnings = response.headers["X-Rerank-Warnings"]
    assert "X-Evil" not in response.headers
    assert warnings.isascii()
    assert warnings.isprintable()


def ask_raw(url: str, request: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        return connection.makefile("rb").readline()


@pytest.mark.enable_socket
def test_keys_in_odd_places_and_path_tricks(address: Callable[..., str]) -> None:
    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service
    from rerank.serving.settings import ServerKeys

    service = create_ranking_service(Reranker.from_pretrained("fake:reversed"))
    url = address(create_server_app(service, ServerKeys.from_keys(["the-key"])))
    body = json.dumps({"query": "q", "documents": ["a", "b"]}).encode()

    def status(path: str = "/v2/rerank", host: str = "x", header: bytes = b"") -> int:
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Connection: close", "Content-Type: application/json"]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}"]).encode() + b"\r\n"
        return int(ask_raw(url, head + header + b"\r\n" + body).split()[1])

    assert status(header=b"Authorization: Bearer the-key\r\n") == 200
    for header in (
        b"X-Api-Key: the-key",
        b"Api-Key: the-key",
        b"Cookie: key=the-key",
        b"Authorization: Basic the-key",
        b"Authorization: Bearer the-key, Bearer the-key",
        b"Authorization: Bearer \xff\xfe",
        b"Authorization: Bearer " + b"k" * 60_000,
        b"Proxy-Authorization: Bearer the-key",
    ):
        assert status(header=header + b"\r\n") == 401, header
    for host in ("x/health?", "x/health#", "user@x/health?"):
        assert status(host=host) == 401
    for path in ("//v2/rerank", "/health/../v2/rerank", "/%2e%2e/etc/passwd", "/health%00", "/v2/rerank?a=/health"):
        assert status(path) == 401, path
    assert status("/etc/passwd", header=b"Authorization: Bearer the-key\r\n") == 404


@pytest.mark.enable_socket
def test_a_client_whose_body_is_too_large_reads_the_reason(address: Callable[..., str]) -> None:
    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service

    service = create_ranking_service(Reranker.from_pretrained("fake:reversed"), ServerSettings(max_body_bytes=2**20))
    url = address(create_server_app(service))
    large = b"x" * 8 * 2**20
    bodies: tuple[Any, ...] = (large, (large[start : start + 2**16] for start in range(0, len(large), 2**16)))
    for content in bodies:  # with its length and without
        response = httpx2.post(f"{url}/v2/rerank", content=content, headers=JSON, timeout=20)
        assert response.status_code == 413
        assert "at most 1048576 bytes" in response.json()["message"]
    wait_for_line(service, 'rerank_requests_ended_total{path="/v2/rerank",status="413"} 2.0')


def test_passages_are_data(client: Client) -> None:
    script = "<script>alert(1)</script>"
    body = {"query": script, "documents": [script], "return_documents": True}
    response = client().post("/v2/rerank", json=body)
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["results"][0]["document"]["text"] == script


BODY = {"query": "q", "documents": ["a", "b"]}


def status(opened: Any, **headers: str) -> int:
    found: int = opened.post("/v2/rerank", json=BODY, headers=headers).status_code
    return found


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:8080", "192.0.2.7:80", "rerank.example", "Rerank.Example.:80"],
)
def test_names_of_the_server(client: Client, host: str) -> None:
    opened = client(allowed_hosts=("rerank.example",))
    assert status(opened, Host=host) == 200
    assert status(opened, Origin=f"http://{host}") == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "[", "", "null"]
)
def test_foreign_names_are_refused(client: Client, host: str) -> None:
    opened = client()
    response = opened.post("/v2/rerank", json=BODY, headers={"Host": host})
    assert response.status_code == 421
    assert "--allowed-host" in response.json()["message"]
    assert status(opened, Origin=f"http://{host}") == 421
    assert opened.get("/", headers={"Host": host}).status_code == 421
    assert opened.get("/health", headers={"Host": host}).status_code == 200


def test_a_star_allows_all_names(client: Client) -> None:
    assert status(client(allowed_hosts=("*",)), Host="any.example") == 200


def test_keys_make_the_check_needless(client: Client) -> None:
    assert status(client(keys=("key",)), Host="any.example", Authorization="Bearer key") == 200
