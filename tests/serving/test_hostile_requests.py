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

from rerank.serving import errors

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
        ("/playground/rank", b'{"query": "\\ud800", "documents": ["a", {"b": "\\ud800"}], "method": ""}', 200),
        ("/playground/rank", b'{"query": "q", "query_id": "\\ud800", "ids": ["\\ud800"], "depth": 1}', 422),
        ("/playground/rank", b'{"query": "q", "documents": ["a"], "method": "\\ud800"}', 422),
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


LISTS = [
    ("/v2/rerank", "documents", {"query": "q"}),
    ("/rerank", "documents", {"query": "q"}),
    ("/rerank", "texts", {"query": "q"}),
    ("/rerank", "scores", {"query": "q", "documents": ["a"]}),
    ("/rerank", "rank_fields", {"query": "q", "documents": ["a"]}),
    ("/rerank", "documents.content", {"query": "q"}),
    ("/playground/rank", "ids", {"query": "q"}),
    ("/playground/rank", "documents", {"query": "q"}),
    ("/score", "text_1", {"text_2": "a"}),
    ("/score", "text_2", {"text_1": "a"}),
    ("/v1/reranking", "input", {"query": "q"}),
    ("/v1/decisions", "input", {"questions": [json.loads(PREDICATE)]}),
    ("/v1/decisions", "questions", {"input": "a"}),
]


@pytest.mark.parametrize(("path", "field", "others"), LISTS)
def test_lists_are_counted_before_their_elements_are_checked(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str, field: str, others: dict[str, Any]
) -> None:
    """A wrong element costs thirty times the time of a right one, and a body can have millions."""

    def body(count: int) -> dict[str, Any]:
        wrong: list[Any] = [True if field == "scores" else 1] * count
        name, _, part = field.partition(".")
        return {**others, name: {part: wrong} if part else wrong}

    opened, found = client(), list[int]()
    monkeypatch.setattr(errors, "from_invalid_body", count_faults(found, errors.from_invalid_body))
    response = opened.post(path, json=body(1001))
    assert response.status_code == 413, response.text
    assert "has 1001" in response.text
    assert "expected at most 1000" in response.text
    assert not found
    refused = opened.post(path, json=body(100 if field == "rank_fields" else 1000))
    if field != "scores":  # true is a number to pydantic
        assert refused.status_code == 422, refused.text
        assert len(refused.content) < 1500
        assert found
        assert found[0] <= 6, "only the first wrong element, which may have errors for several types"


def count_faults(found: list[int], describe: Callable[..., Any]) -> Callable[..., Any]:
    def described(error: Any, content_type: str | None) -> Any:
        found.append(len(error.errors()))
        return describe(error, content_type)

    return described


def test_only_as_many_elements_as_documents_are_allowed(client: Client) -> None:
    body = {"query": "q", "documents": ["a"] * 1200}
    assert client(max_documents=1500).post("/v2/rerank", json=body).status_code == 200
    tei = client().post("/rerank", json={"query": "q", "texts": ["a"] * 1200})
    assert tei.status_code == 413
    assert set(tei.json()) == {"error", "error_type"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/sglang/v1/rerank", {"query": "q", "documents": ["a"] * 200, "model": "m" * 10_000}),
        ("/rerank", {"query": "q", "documents": ["a"] * 200, "model": "m" * 10_000, "return_documents": False}),
        ("/playground/rank", {"query": "q", "documents": ["a"], "method": "m" * 10_000}),
        ("/playground/rank", {"query": "", "documents": ["a"], "query_id": "m" * 10_000}),
        ("/" + "m" * 10_000, {}),
        ("/rerank", {"query": "q", "documents": [{"m" * 10_000: None}]}),
        ("/v1/decisions", {"input": [{"type": "m" * 10_000}], "questions": [json.loads(PREDICATE)]}),
        ("/v2/rerank", {"query": "q", "documents": {"m" * 10_000: 1}}),
    ],
)
def test_long_names_are_cut_before_they_are_repeated(client: Client, path: str, body: dict[str, Any]) -> None:
    response = client().post(path, json=body)
    assert b"m" * 300 not in response.content
    assert len(response.content) < 100_000


def test_fields_of_documents_are_distinct_and_few(client: Client) -> None:
    body = {"query": "q", "documents": [{"title": "t", "b": "c"}], "rank_fields": ["b", "title"] * 50}
    opened = client()
    assert opened.post("/rerank", json=body).json()["data"][0]["relevance_score"] == 1
    assert opened.post("/rerank", json=body).json()["results"][0]["document"]["text"] == "b: c\ntitle: t"
    refused = opened.post("/rerank", json={**body, "rank_fields": [str(n) for n in range(101)]})
    assert refused.status_code == 422
    assert "rank_fields" in refused.json()["message"]
    parts = {"query": "q", "documents": [{"content": [{"text": "a"}] * 1001}]}
    assert "1001 parts" in opened.post("/rerank", json=parts).json()["message"]


def test_windows_per_request_are_limited(client: Client) -> None:
    opened = client(has_playground=True)
    body = {"query": "q", "documents": ["a"] * 1000, "depth": 1000, "method": "pairwise-allpair"}
    response = opened.post("/playground/rank", json=body)
    assert response.status_code == 413
    assert "999000 windows" in response.json()["message"]
    assert opened.post("/playground/rank", json={**body, "depth": 20}).status_code == 200
    own = client(Reranker.from_pretrained("fake:reversed", method="pairwise-allpair"), max_windows=5)
    assert own.post("/v2/rerank", json={"query": "q", "documents": ["a", "b"]}).status_code == 200
    assert own.post("/v2/rerank", json={"query": "q", "documents": ["a", "b", "c"]}).status_code == 413


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
