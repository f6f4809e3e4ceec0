"""A reranker for LangChain, as a document compressor or as a `Runnable`. It requires the extra ``langchain``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerank.integrations.framework_reranker import FrameworkReranker, RankedPositions, missing_framework_error

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.runnables import Runnable, RunnableLambda
except ImportError as error:
    raise missing_framework_error("langchain", error) from error


class RerankerCompressor(FrameworkReranker, BaseDocumentCompressor):
    """A document compressor that returns copies, best first, with the score in ``metadata["relevance_score"]``."""

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        return _scored_copies(documents, self.rank_positions(query, _texts(documents)))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> list[Document]:
        return _scored_copies(documents, await self.arank_positions(query, _texts(documents)))

    def as_runnable(self) -> Runnable[dict[str, Any], list[Document]]:
        """Return a runnable that maps ``{"query": ..., "documents": [...]}`` to the documents, best first."""

        def rerank(inputs: dict[str, Any]) -> list[Document]:
            return self.compress_documents(inputs["documents"], inputs["query"])

        async def arerank(inputs: dict[str, Any]) -> list[Document]:
            return await self.acompress_documents(inputs["documents"], inputs["query"])

        return RunnableLambda(rerank, afunc=arerank)


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _scored_copies(documents: Sequence[Document], positions: RankedPositions) -> list[Document]:
    return [
        documents[position].model_copy(update={"metadata": {**documents[position].metadata, "relevance_score": score}})
        for position, score in positions
    ]
