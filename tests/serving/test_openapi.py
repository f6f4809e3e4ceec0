"""The OpenAPI description against the server: schemathesis sends what the description allows, and more.

Schemathesis is in an environment of its own (`make test-api`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rerank import Reranker
from rerank.serving.settings import ServerSettings

pytest.importorskip("fastapi")


def test_every_endpoint_documents_its_errors() -> None:
    from rerank.serving.app import create_server_app
    from rerank.serving.opening import create_ranking_service

    app = create_server_app(create_ranking_service(Reranker.from_pretrained("fake:reversed")))
    for path, methods in app.openapi()["paths"].items():
        for operation in methods.values():
            documented = operation["responses"]
            for status in ("400", "401", "413", "422", "429", "500", "503", "504"):
                schema = documented[status]["content"]["application/json"]["schema"]
                assert "Error" in str(schema), (path, status)
                assert "HTTPValidationError" not in str(schema), (path, status)


@pytest.mark.enable_socket
def test_schemathesis_finds_nothing(address: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("schemathesis")
    from rerank.serving.app import create_server_app
    from rerank.serving.opening import create_ranking_service

    service = create_ranking_service(Reranker.from_pretrained("fake:reversed"), ServerSettings(max_documents=20))
    url = address(create_server_app(service))
    config = Path(__file__).with_name("schemathesis.toml")
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config)]
    ended = subprocess.run(
        [*command, "run", f"{url}/openapi.json", "--max-examples", "50", "--seed", "1", "--no-color"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stdout
