"""LlamaIndex: events, metadata and the missing query."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rerank import Reranker
from rerank.errors import UsageError

pytestmark = pytest.mark.integrations


def nodes() -> list[Any]:
    from llama_index.core.schema import NodeWithScore, TextNode

    return [NodeWithScore(node=TextNode(text=text, metadata={"title": f"title {text}"})) for text in "abc"]


def test_events() -> None:
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler

    from rerank.integrations.llama_index import RerankerPostprocessor

    seen: list[Any] = []

    class Collect(BaseEventHandler):  # type: ignore[misc]
        def handle(self, event: Any, **kwargs: Any) -> None:
            seen.append(event)

    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(Collect())
    try:
        component = RerankerPostprocessor(model="fake:reversed", top_n=2)
        ranked = component.postprocess_nodes(nodes(), query_str="q")
        asyncio.run(component.apostprocess_nodes(nodes(), query_str="q"))
        component = RerankerPostprocessor(reranker=Reranker.from_pretrained("fake:reversed"))
        component.postprocess_nodes(nodes(), query_str="q")
    finally:
        dispatcher.event_handlers.pop()
    names = ["ReRankStartEvent", "ReRankEndEvent"]
    assert [event.class_name() for event in seen] == names * 3
    assert (seen[0].top_n, seen[0].model_name, seen[0].query.query_str) == (2, "fake:reversed", "q")
    assert (seen[4].top_n, seen[4].model_name) == (3, "fake:reversed")
    assert seen[1].nodes == ranked


def test_the_text_contains_the_metadata_for_embedding_models(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.integrations.llama_index import RerankerPostprocessor

    seen: list[dict[str, Any]] = []
    original = Reranker.rank

    def rank(self: Reranker, query: str, texts: list[dict[str, Any]], **options: Any) -> Any:
        seen.extend(texts)
        return original(self, query, texts, **options)

    monkeypatch.setattr(Reranker, "rank", rank)
    RerankerPostprocessor(model="fake:reversed").postprocess_nodes(nodes(), query_str="q")
    assert seen[0]["text"] == "title: title a\n\na"


def test_a_query_is_needed() -> None:
    from rerank.integrations.llama_index import RerankerPostprocessor

    with pytest.raises(UsageError, match="query_str"):
        RerankerPostprocessor(model="fake:reversed").postprocess_nodes(nodes())
