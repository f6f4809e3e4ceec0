"""Clients that need a version of cohere before 6, in an environment of their own."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

import pytest

from tests.clients.conftest import DOCS, KEY, MODEL, note_version

pytestmark = [pytest.mark.clients, pytest.mark.allow_hosts(["127.0.0.1"])]


@pytest.fixture(autouse=True)
def _cohere() -> None:
    note_version("cohere")


def compressor(url: str, key: str = KEY) -> Any:
    note_version("langchain-cohere")
    module = import_module("langchain_cohere")
    return module.CohereRerank(model=MODEL, cohere_api_key=key, base_url=url, top_n=2)


def documents() -> list[Any]:
    module = import_module("langchain_core.documents")
    return [module.Document(page_content=text, metadata={"number": n}) for n, text in enumerate(DOCS)]


def test_langchain_cohere(url: str) -> None:
    given = documents()
    ranked = compressor(url).compress_documents(given, "q")
    assert [document.metadata for document in ranked] == [
        {"number": 2, "relevance_score": 1.0},
        {"number": 1, "relevance_score": 0.5},
    ]
    assert [row["index"] for row in compressor(url).rerank(given, "q", top_n=3)] == [2, 1, 0]
    assert asyncio.run(compressor(url).acompress_documents(given, "q")) == ranked
    with pytest.raises(import_module("cohere").UnauthorizedError, match="The key is missing or wrong"):
        compressor(url, "wrong").compress_documents(given, "q")


def test_a_compressing_retriever(url: str) -> None:
    note_version("langchain-classic")
    retrievers = import_module("langchain_classic.retrievers")
    first_stage = import_module("langchain_core.runnables").RunnableLambda(lambda query: documents())
    retriever = retrievers.ContextualCompressionRetriever(base_compressor=compressor(url), base_retriever=first_stage)
    assert [document.page_content for document in retriever.invoke("q")] == [DOCS[2], DOCS[1]]


def test_llama_index_cohere(url: str) -> None:
    note_version("llama-index-postprocessor-cohere-rerank")
    schema = import_module("llama_index.core.schema")
    module = import_module("llama_index.postprocessor.cohere_rerank")
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text), score=0.1) for text in DOCS]
    reranker = module.CohereRerank(model=MODEL, api_key=KEY, base_url=url, top_n=2, max_retries=1)
    ranked = reranker.postprocess_nodes(nodes, query_str="q")
    assert [(node.text, node.score) for node in ranked] == [(DOCS[2], 1.0), (DOCS[1], 0.5)]
