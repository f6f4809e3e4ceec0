"""The playground's endpoints: methods, rankings with prompts and completions, heat, examples that run, and headers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.backends.fake import Fake
from rerank.collections import open_collection
from rerank.tasks import GenerationTask
from rerank.types import Document, Query, Ranking
from tests.serving.conftest import Client

pytest.importorskip("fastapi")

from rerank.serving.playground import command_example, curl_example, python_example
from rerank.serving.search_routes import CollectionSearch

DOCS = ["one", "two", "three"]


class Generating(Fake):
    tasks = frozenset({GenerationTask})


def rank(client: Any, **body: Any) -> Any:
    response = client.post("/playground/rank", json={"query": "q", "documents": DOCS, **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_pages_are_open_and_may_only_load_their_own_files(client: Client) -> None:
    opened = client(keys=("secret",))
    for path, kind in (("/", "text/html"), ("/playground.css", "text/css"), ("/playground.js", "text/javascript")):
        response = opened.get(path)
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith(kind)
        assert "default-src 'none'; script-src 'self'" in response.headers["Content-Security-Policy"]
        assert "unsafe" not in response.headers["Content-Security-Policy"]
    page = opened.get("/").text
    for inline in ("style=", "<style", " onclick", "javascript:", "http://", "https://"):
        assert inline not in page
    assert "innerHTML" not in opened.get("/playground.js").text
    assert opened.get("/playground/settings").status_code == 401
    assert opened.post("/playground/rank", json={}).status_code == 401


def test_a_server_without_a_playground(client: Client) -> None:
    opened = client(has_playground=False)
    for path in ("/", "/playground.js", "/playground/settings"):
        assert opened.get(path).status_code == 404


def test_only_methods_that_the_model_supports_are_offered(client: Client) -> None:
    settings = client().get("/playground/settings").json()
    names = [method["name"] for method in settings["methods"]]
    assert names[0] == ""
    assert settings["methods"][0]["label"] == "fullrank (served)"
    assert {"sliding", "icr", "setwise", "pointwise"} <= set(names)
    assert {method["name"] for method in settings["methods"] if method["heat"]} >= {"icr"}
    assert not {name for name in names if "images" in name}  # passages are texts
    server = client(Reranker.from_backend(Generating("reversed")))
    offered = {method["name"] for method in server.get("/playground/settings").json()["methods"]}
    assert "sliding" in offered
    assert "icr" not in offered


def test_a_ranking_with_its_prompt_and_completion(client: Client) -> None:
    opened = client()
    answer = rank(opened)
    assert [row["index"] for row in answer["results"]] == [2, 1, 0]
    assert [document["text"] for document in answer["documents"]] == DOCS
    (call,) = answer["calls"]
    assert "three" in call["prompt"][-1]["content"]
    assert call["completion"] == "[3] > [2] > [1]"
    assert answer["usage"]["calls"] == 1
    assert answer["usage"]["tokens_in"] == call["tokens_in"] > 0
    assert answer["seconds"] > 0
    assert 'rerank_requests_ended_total{path="/playground/rank",status="200"} 1.0' in opened.get("/metrics").text


def test_only_the_first_calls_are_kept(client: Client) -> None:
    answer = rank(client(), method="pointwise", depth=30, documents=[f"text {n}" for n in range(30)])
    assert answer["usage"]["calls"] == 30
    assert len(answer["calls"]) == 20


def test_simultaneous_rankings_get_their_own_calls(client: Client) -> None:
    opened = client(Reranker.from_pretrained("fake-server:reversed,delay=0.3,concurrency=8"))

    def ask(number: int) -> Any:
        return rank(opened, query=f"query {number}", method="sliding" if number % 2 else "")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    for number, answer in enumerate(answers):
        (call,) = answer["calls"]
        assert f"query {number}" in call["prompt"][-1]["content"]


def test_other_methods_and_depth(client: Client) -> None:
    opened = client()
    answer = rank(opened, method="sliding", depth=2)
    assert [row["index"] for row in answer["results"]] == [1, 0]
    assert len(answer["documents"]) == 2
    response = opened.post(
        "/playground/rank", json={"query": "q", "documents": DOCS, "method": "icr,heads=/etc/passwd"}
    )
    assert response.status_code == 422
    assert "method" in response.json()["message"]


def test_heat_says_which_words_drew_the_attention(client: Client) -> None:
    answer = rank(client(), query="fleas", documents=["Fleas 🦟 jump", "fleas and dogs"], method="icr", heat=True)
    first, second = (document["words"] for document in answer["documents"])
    assert first == [[0, 5, 1.0], [6, 7, 0.0], [8, 12, 0.0]]
    assert second[0] == [0, 5, 1.0]
    other = rank(client(), heat=True)
    assert other["documents"][0]["words"] is None
    assert any("evidence" in warning for warning in other["warnings"])


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CollectionSearch:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    texts = ["snow falls", "rain falls", "the sun shines"]
    documents = [json.dumps({"_id": f"d{n}", "text": text}) for n, text in enumerate(texts)]
    (tmp_path / "docs.jsonl").write_text("\n".join(documents), encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "falls"}\n', encoding="utf-8")
    collection = open_collection(f"jsonl:{tmp_path}/docs.jsonl,queries={tmp_path}/queries.jsonl")
    return CollectionSearch.open(collection, "bm25")


def test_documents_of_a_collection(client: Client, search: CollectionSearch) -> None:
    opened = client(search=search)
    assert opened.get("/playground/settings").json()["collection"] == search.corpus.name
    found = rank(opened, query="falls snow", documents=None)
    assert [document["id"] for document in found["documents"]][:2] == ["d0", "d1"]
    assert found["documents"][0]["score"] > found["documents"][1]["score"]
    of_run = rank(opened, query="", query_id="q1", documents=None, ids=["d2", "d0", "d2"])
    assert of_run["query"] == "falls"
    assert [document["id"] for document in of_run["documents"]] == ["d2", "d0"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"query": " "}, "empty"),
        ({"query": "", "query_id": "q9"}, "'q9'"),
        ({"documents": None}, "--collection"),
        ({"documents": [{}]}, "no text"),
        ({"depth": 0}, "depth"),
        ({"documents": None, "ids": ["a"]}, "--collection"),
    ],
)
def test_wrong_requests(client: Client, body: dict[str, Any], part: str) -> None:
    response = client().post("/playground/rank", json={"query": "q", "documents": DOCS, **body})
    assert response.status_code == 422
    assert part in response.json()["message"]


def test_examples_of_large_texts_are_left_out(client: Client) -> None:
    assert rank(client(), documents=["a" * 100_001])["examples"] == {}


def test_unknown_ids_are_an_error(client: Client, search: CollectionSearch) -> None:
    response = client(search=search).post("/playground/rank", json={"query": "q", "ids": ["nothing"]})
    assert response.status_code == 422
    assert "'nothing'" in response.json()["message"]


#: Texts that a shell, Python or JSON could misread.
HOSTILE = ['it\'s $(touch pwned) `touch pwned` "x" \\n', "two\nlines \u2028 %s", 'three \'a\'"""']


def hostile_candidates() -> Ranking:
    documents = tuple(Document(id=str(number), text=text) for number, text in enumerate(HOSTILE))
    return Ranking(Query(id="0", text="a 'query'"), documents, (3.0, 2.0, 1.0))


@pytest.mark.parametrize("method", ["psc", "tourrank", "sliding"])
def test_all_ways_give_the_same_order(client: Client, method: str, tmp_path: Path) -> None:
    """Also for methods with random orders, which depend on the id of the query."""
    reranker = Reranker.from_pretrained("fake:stutter")
    documents = [f"text {number}" for number in range(30)]
    opened = client(reranker)
    body = {"documents": documents, "method": method, "depth": 30}
    found, again = ([row["index"] for row in rank(opened, **body)["results"]] for _ in range(2))
    direct = Reranker.from_backend(reranker.backend, method=method).rank("q", documents)
    assert found == again == [hit.corpus_id for hit in direct]


@pytest.mark.parametrize("example", [python_example, command_example])
def test_examples_run(example: Any, tmp_path: Path) -> None:
    text = example({"model": "fake:reversed", "method": "sliding", "reuse": False}, hostile_candidates())
    program = [sys.executable, "-c", text]
    if example is command_example:
        program = ["bash", "-c", text.replace("rerank rerank", f"{sys.executable} -m rerank rerank", 1)]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "pwned").exists()
    lines = done.stdout.splitlines()
    if example is command_example:
        assert [line.split()[2] for line in lines] == ["3", "2", "1"]
    else:
        assert lines[0].startswith("1 ")
        assert HOSTILE[2] in lines[0]


def test_the_example_of_curl_sends_the_documents(tmp_path: Path) -> None:
    for method, path in (("", "/v2/rerank"), ("icr", "/playground/rank")):
        text = curl_example("http://127.0.0.1:1", hostile_candidates(), method=method, has_key=True)
        shown = text.replace("curl ", f"RERANK_KEY=secret; {sys.executable} -c 'import sys; print(sys.argv[1:])' ", 1)
        done = subprocess.run(["bash", "-c", shown], cwd=tmp_path, capture_output=True, text=True, check=True)
        arguments = eval(done.stdout)
        assert arguments[0].endswith(path)
        assert arguments[2] == "Authorization: Bearer secret"
        body = json.loads(arguments[-1])
        assert body["documents"] == HOSTILE
        assert body["scores"] == [3.0, 2.0, 1.0]
        assert not (tmp_path / "pwned").exists()
