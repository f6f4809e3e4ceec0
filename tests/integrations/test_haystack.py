"""Haystack: pipelines, stored as YAML, and the life of the model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rerank import Reranker

pytestmark = pytest.mark.integrations


def documents() -> list[Any]:
    from haystack import Document

    return [Document(content=text, score=0.1) for text in "abc"]


def contents(output: dict[str, Any]) -> list[str]:
    return [document.content for document in output["ranker"]["documents"]]


def test_a_pipeline_is_stored_and_read() -> None:
    from haystack import Pipeline

    from rerank.integrations.haystack import RerankerComponent

    pipeline = Pipeline()
    pipeline.add_component("ranker", RerankerComponent("fake:reversed", {"method": "sliding"}, top_k=2))
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["rerank.integrations.*"])
    for each in (pipeline, again):
        given: dict[str, Any] = {"ranker": {"query": "q", "documents": documents()}}
        assert contents(each.run(given)) == ["c", "b"]
        assert contents(asyncio.run(each.run_async(given))) == ["c", "b"]
        given["ranker"]["top_k"] = 1
        assert contents(each.run(given)) == ["c"]


def test_a_document_without_text_is_not_lost() -> None:
    from haystack import Document

    from rerank.integrations.haystack import RerankerComponent

    given = [Document(content="a"), Document(content=None, meta={"page": 1})]
    assert len(RerankerComponent("fake:reversed").run("q", given)["documents"]) == 2


def test_warm_up_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.integrations.haystack import RerankerComponent

    calls: list[str] = []
    for name in ("warm_up", "close"):
        monkeypatch.setattr(Reranker, name, lambda self, name=name: calls.append(name))
    component = RerankerComponent("fake:reversed")
    component.warm_up()
    asyncio.run(component.warm_up_async())
    component.close()
    asyncio.run(component.close_async())  # nothing is open any more
    assert calls == ["warm_up", "warm_up", "close"]
    passed_in = RerankerComponent(reranker=Reranker.from_pretrained("fake:reversed"))
    passed_in.close()
    assert calls.count("close") == 1
