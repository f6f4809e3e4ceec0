"""The first stages over OpenSearch and Elasticsearch: their real clients against a stand-in for both servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rerank.errors import BackendError, DataError, RerankError, UsageError
from rerank.retrieval import first_stages
from rerank.types import Document, Query
from tests.raising import raises
from tests.retrieval.encoders import Fake
from tests.retrieval.stores import SearchEngine, run_search_engine

pytestmark = pytest.mark.enable_socket

QUERY = Query(id="q", text="wing air")
WORDS = ["wing", "water", "air", "flow", "heat"]
DOCS = [Document(id=f"d{n}", title=f"Title {n}", text=f"{WORDS[n % 5]} {WORDS[n % 3]} text {n}") for n in range(30)]


@pytest.fixture(params=["opensearch", "elasticsearch"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip({"opensearch": "opensearchpy"}.get(request.param, request.param))
    for variable in ("URL", "API_KEY", "USERNAME", "PASSWORD", "CA_CERTS"):
        monkeypatch.delenv(f"{request.param.upper()}_{variable}", raising=False)
    return str(request.param)


@pytest.fixture
def engine(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SearchEngine]:
    vectors = Fake().passages([doc.text for doc in DOCS]).tolist()
    rows = {
        f"own-{doc.id}": {"doc": doc.id, "title": doc.title, "text": doc.text, "embedding": vector}
        for doc, vector in zip(DOCS, vectors, strict=True)
    }
    engine = SearchEngine(rows, 16)
    with run_search_engine(engine) as address:
        monkeypatch.setenv(f"{name.upper()}_URL", address)
        yield engine


def search(name: str, k: int = 5, encoder: Fake | None = None, **options: Any) -> Any:
    stage: Any = first_stages.get(name)
    return stage("docs", **{"id": "doc", **options}).retriever(encoder).search([QUERY], k)["q"]


def test_words_with_ties_broken_by_id(name: str, engine: SearchEngine) -> None:
    ranking = search(name, title="title")
    both = sorted((doc.id for doc in DOCS if {"wing", "air"} <= set(doc.text.split())), reverse=True)
    assert ranking.doc_ids[: len(both)] == tuple(both)[:5]
    assert ranking.docs[0] in DOCS
    assert all("search_type=dfs_query_then_fetch" in path for _, path, _ in engine.searches)


def test_every_query_has_a_ranking_and_no_two_queries_share_an_id(name: str, engine: SearchEngine) -> None:
    stage: Any = first_stages.get(name)
    retriever = stage("docs", id="doc").retriever(None)
    run = retriever.search([Query(id="b", text=" "), QUERY, Query(id="a", text="heat")], 2)
    assert {query: len(ranking) for query, ranking in run.items()} == {"b": 0, "q": 2, "a": 2}
    assert list(run) == ["b", "q", "a"]
    with raises(DataError, "'q'"):
        retriever.search([QUERY, Query(id="q", text="heat")], 2)


def test_nearest_vectors(name: str, engine: SearchEngine) -> None:
    scores = Fake().passages([doc.text for doc in DOCS]) @ Fake().queries([QUERY.text])[0]
    ranking = search(name, encoder=Fake(), vector="embedding")
    assert ranking.doc_ids == tuple(DOCS[position].id for position in np.argsort(-scores)[:5])


def test_the_engines_own_id_is_the_default(name: str, engine: SearchEngine) -> None:
    assert search(name, id="").doc_ids[0].startswith("own-d")


def test_credentials_are_sent(name: str, engine: SearchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "s3cret")
    search(name)
    monkeypatch.delenv(f"{name.upper()}_API_KEY")
    monkeypatch.setenv(f"{name.upper()}_USERNAME", "user")
    monkeypatch.setenv(f"{name.upper()}_PASSWORD", "word")
    search(name)
    sent = [
        {key.lower(): value for key, value in headers.items()}["authorization"] for _, _, headers in engine.searches
    ]
    assert sent[0] == "ApiKey s3cret"
    assert sent[-1] == "Basic dXNlcjp3b3Jk"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"timed_out": True}, BackendError),
        ({"_shards": {"total": 3, "failed": 1}}, BackendError),
        ({"hits": {"hits": [{"_id": "a", "_score": 1.0, "_source": {"doc": "a"}}]}}, DataError),
        ({"hits": {"hits": [{"_id": "a", "_score": 1.0, "_source": {"text": "a"}}]}}, DataError),
        ({"hits": {"hits": 2 * [{"_id": "a", "_score": 1.0, "_source": {"doc": "a", "text": "a"}}]}}, DataError),
    ],
)
def test_answers_that_lack_something(
    name: str, engine: SearchEngine, answer: dict[str, Any], error: type[RerankError]
) -> None:
    engine.answer = answer
    with raises(error, "docs"):
        search(name)


def test_a_server_that_fails(name: str, engine: SearchEngine) -> None:
    engine.status = 503
    with raises(BackendError, name.upper()):
        search(name)


def test_a_server_that_is_down(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_URL", "http://127.0.0.1:1")
    with raises(BackendError, f"{name.upper()}_URL"):
        search(name)


@pytest.mark.parametrize("options", [{"text": "content"}, {"id": "number"}, {"vector": "other"}])
def test_fields_that_are_missing(name: str, engine: SearchEngine, options: dict[str, Any]) -> None:
    with raises(UsageError, *options.values()):
        search(name, encoder=Fake() if "vector" in options else None, **options)


def test_another_dimension_index_and_depth(name: str, engine: SearchEngine) -> None:
    with raises(UsageError, "16", "8"):
        search(name, encoder=Fake(8), vector="embedding")
    with raises(UsageError, "10000"):
        search(name, k=10_001)
    stage: Any = first_stages.get(name)
    with raises(UsageError, "other"):
        stage("other").retriever(None)


def test_passwords_need_encryption(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{name.upper()}_URL", "http://example.org:9200")
    monkeypatch.setenv(f"{name.upper()}_USERNAME", "user")
    with raises(UsageError, "https"):
        search(name)


def test_an_address_is_required(name: str) -> None:
    with raises(UsageError, f"{name.upper()}_URL"):
        search(name)
