"""Search over a collection in process: turns, deadlines, and limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank import Reranker
from rerank.retrieval.base import Retriever
from rerank.types import Document, Query, Ranking, Run
from tests.serving.conftest import Client

pytest.importorskip("fastapi")

from rerank.serving.search_routes import CollectionSearch


class SlowRetriever:
    """Finds the same documents for every query, and notes how many searches work at the same time."""

    def __init__(self, seconds: float, scores: tuple[float, ...] = (), count: int = 3) -> None:
        self._seconds, self._scores, self._count = seconds, scores, count
        self._lock = threading.Lock()
        self.working = self.most = self.searches = 0

    def search(self, queries: Sequence[Query], depth: int) -> Run:
        with self._lock:
            self.searches += 1
            self.working += 1
            self.most = max(self.most, self.working)
        time.sleep(self._seconds)
        with self._lock:
            self.working -= 1
        documents = tuple(Document(id=f"d{n}", text=f"text {n}") for n in range(self._count))[:depth]
        return Run([Ranking(query, documents, self._scores) for query in queries], name="slow")


class Corpus:
    name = "texts"


def search_with(retriever: Retriever) -> CollectionSearch:
    return CollectionSearch(corpus=Corpus(), retriever=retriever)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/search", {"query": "q"}), ("/playground/rank", {"query": "q", "depth": 3})]
)
def test_searches_wait_for_their_turn(client: Client, path: str, body: dict[str, object]) -> None:
    retriever = SlowRetriever(0.1)
    opened = client(search=search_with(retriever), max_active=1)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: opened.post(path, json=body), range(3)))
    assert [response.status_code for response in found] == [200] * 3, found[0].text
    assert (retriever.searches, retriever.most) == (3, 1)


def test_the_deadline_includes_the_search(client: Client) -> None:
    reranker = Reranker.from_pretrained("fake-server:reversed,delay=0.3")
    opened = client(reranker, search=search_with(SlowRetriever(0.5)))
    answer = opened.post("/v1/search", json={"query": "q", "deadline_ms": 400}).json()
    assert [row["id"] for row in answer["results"]] == ["d0", "d1", "d2"]
    assert any("deadline" in warning for warning in answer["meta"]["warnings"])


@pytest.mark.parametrize(("scores", "shown"), [((3.0, 2.0, 1.0), [1, 2, 3]), ((), [None] * 3)])
def test_scores_of_the_first_stage(client: Client, scores: tuple[float, ...], shown: list[float | None]) -> None:
    opened = client(search=search_with(SlowRetriever(0, scores)))
    answer = opened.post("/v1/search", json={"query": "q"}).json()
    assert [row.get("first_stage_score") for row in answer["results"]] == shown


def test_a_search_that_finds_nothing_says_so(client: Client) -> None:
    opened = client(search=search_with(SlowRetriever(0, count=0)))
    answer = opened.post("/v1/search", json={"query": "q"}).json()
    assert answer["results"] == []
    assert any("no document" in warning for warning in answer["meta"]["warnings"])


def test_a_depth_above_the_limit_is_refused_before_the_search(client: Client) -> None:
    retriever = SlowRetriever(0)
    opened = client(search=search_with(retriever), max_documents=2)
    assert opened.post("/v1/search", json={"query": "q", "depth": 3}).status_code == 413
    assert retriever.searches == 0
    assert opened.post("/v1/search", json={"query": "q", "depth": 2}).status_code == 200


@pytest.mark.parametrize(("asked", "count"), [({"top_n": 2}, 2), ({"top_k": 1}, 1), ({"top_n": 0}, 3), ({}, 3)])
def test_the_number_of_results(client: Client, asked: dict[str, int], count: int) -> None:
    opened = client(search=search_with(SlowRetriever(0)))
    assert len(opened.post("/v1/search", json={"query": "q", **asked}).json()["results"]) == count
