"""Requests to foreign host names, which a web page can send to a server of its visitor."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serving.conftest import Client

pytest.importorskip("fastapi")

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
