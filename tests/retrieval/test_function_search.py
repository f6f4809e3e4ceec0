"""A Python function as a first stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rerank import Document, Query, Reranker, Search
from rerank.errors import DataError
from tests.raising import raises

ROWS: list[dict[str, Any]] = [
    {"text": "low", "score": 1.0, "url": "a"},
    {"text": "high", "score": 3.0, "url": "b"},
    {"id": "own", "text": "middle", "score": 2.0, "url": "c"},
]
QUERIES = [Query(id="q1", text="one"), Query(id="q2", text="two")]


def find(query: str) -> Iterable[dict[str, Any]]:
    return ROWS


def test_documents_are_sorted_by_their_scores_and_have_unique_ids() -> None:
    run = (Search.of(find) % 2)(QUERIES)
    assert run.name == "find"
    assert run["q1"].doc_ids == ("q1:1", "own")
    assert run["q2"].doc_ids == ("q2:1", "own")
    assert run["q1"].scores == (3.0, 2.0)


def test_without_scores_the_order_is_kept_and_none_are_invented() -> None:
    run = Search.of(lambda query: [f"{query} b", Document(id="x", text=f"{query} a")])(QUERIES)
    assert run["q1"].doc_ids == ("q1:0", "x")
    assert run["q1"].scores == ()


def test_a_function_is_a_source_of_a_pipeline() -> None:
    run = (Search.of(find) >> Reranker.from_pretrained("fake:reversed") % 1)(QUERIES)
    assert run["q1"].doc_ids == ("q1:0",)
    assert run["q1"].docs[0].source == {"url": "a"}


def test_ids_of_the_user_are_kept() -> None:
    run = Search.of(lambda query: [{"id": "0", "text": "a"}, {"id": "7", "text": "b"}, {"id": 2, "text": "c"}])(QUERIES)
    assert run["q1"].doc_ids == ("0", "7", "2")


def test_a_score_for_some_documents_only_is_refused() -> None:
    with raises(DataError, "Document 1", "no score"):
        Search.of(lambda query: [{"text": "a", "score": 1}, {"text": "b"}])(QUERIES)
