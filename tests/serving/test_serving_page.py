"""The requests on the page about the server are answered."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rerank.collections import open_collection
from tests.serving.conftest import Client

pytest.importorskip("fastapi")

PAGE = Path(__file__).resolve().parents[2] / "docs/serving.md"
REQUESTS = re.findall(r"```http\nPOST (\S+)\n(.*?)```", PAGE.read_text("utf-8"), re.S)


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_a_request_of_the_page(client: Client, tmp_path: Path, path: str, body: str) -> None:
    from rerank.serving.search_routes import CollectionSearch

    (tmp_path / "docs.jsonl").write_text('{"_id": "d1", "text": "how to read a file"}\n', encoding="utf-8")
    search = CollectionSearch.open(open_collection(f"jsonl:{tmp_path / 'docs.jsonl'}"), "bm25")
    response = client(search=search).post(path, json=json.loads(body))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer if isinstance(answer, list) else answer.get("results") or answer.get("data") or answer["answers"]


def test_the_page_has_requests_of_all_endpoints() -> None:
    assert {path for path, _ in REQUESTS} >= {"/v2/rerank", "/rerank", "/score", "/v1/decisions", "/v1/search"}
