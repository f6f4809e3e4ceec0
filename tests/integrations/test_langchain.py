"""LangChain: retrievers and chains."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytestmark = pytest.mark.integrations


@pytest.fixture
def retriever() -> Any:
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    class Fixed(BaseRetriever):  # type: ignore[misc]
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document(id=f"id {text}", page_content=text, metadata={"source": text}) for text in "abc"]

    return Fixed()


@pytest.fixture
def compressor() -> Any:
    from rerank.integrations.langchain import RerankerCompressor

    return RerankerCompressor(model="fake:reversed", top_n=2)


def test_a_retriever_with_the_compressor(retriever: Any, compressor: Any) -> None:
    from langchain_classic.retrievers import ContextualCompressionRetriever

    reranked = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
    documents = reranked.invoke("q")
    assert [(d.id, d.metadata) for d in documents] == [
        ("id c", {"source": "c", "relevance_score": 1.0}),
        ("id b", {"source": "b", "relevance_score": 0.5}),
    ]
    assert asyncio.run(reranked.ainvoke("q")) == documents


def test_a_chain_with_the_runnable(retriever: Any, compressor: Any) -> None:
    from langchain_core.runnables import RunnablePassthrough

    chain = {"query": RunnablePassthrough(), "documents": retriever} | compressor.as_runnable()
    documents = chain.invoke("q")
    assert [document.page_content for document in documents] == ["c", "b"]
    assert asyncio.run(chain.ainvoke("q")) == documents
    assert chain.batch(["q", "r"]) == [documents, documents]
