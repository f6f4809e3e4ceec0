"""A server over the fake model, asked in process or through a socket on loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rerank import Reranker
from rerank.serving.settings import ServerKeys, ServerSettings

Client = Callable[..., Any]


def wait_for_line(service: Any, line: str) -> None:
    """Wait until the metrics have a line; a request is counted just after its client has read the answer."""
    for _ in range(200):
        if line in service.metrics.exposition().decode():
            return
        time.sleep(0.05)
    raise AssertionError(f"{line} is not in {service.metrics.exposition().decode()}")


@pytest.fixture
def client() -> Iterator[Client]:
    from fastapi.testclient import TestClient

    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service

    opened: list[TestClient] = []

    def open_client(
        reranker: Reranker | None = None,
        keys: tuple[str, ...] = (),
        search: Any = None,
        has_playground: bool = True,
        **settings: Any,
    ) -> TestClient:
        reranker = reranker or Reranker.from_pretrained("fake:reversed")
        service = create_ranking_service(reranker, ServerSettings(**{"name": "fake", **settings}))
        app = create_server_app(service, ServerKeys.from_keys(keys), search=search, has_playground=has_playground)
        opened.append(TestClient(app, "http://127.0.0.1", raise_server_exceptions=False).__enter__())
        return opened[-1]

    yield open_client
    for test_client in opened:
        test_client.__exit__(None, None, None)


@pytest.fixture
def address() -> Iterator[Callable[..., str]]:
    """Return a function that serves an application on a free port and returns its address."""
    import uvicorn

    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(app: Any) -> str:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        for _ in range(500):
            if server.started:
                return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            time.sleep(0.02)
        raise AssertionError("the server did not start")

    yield serve
    for server, thread in servers:
        server.should_exit = True
        thread.join(timeout=10)
