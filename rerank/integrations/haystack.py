"""A reranker for Haystack, as a ranker component for pipelines. It requires the extra ``haystack``."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from rerank.integrations.framework_reranker import FrameworkReranker, RankedPositions, missing_framework_error
from rerank.reranker import Reranker

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise missing_framework_error("haystack", error) from error


@component
class RerankerComponent:
    """A ranker that returns scored copies of the documents, best first, with the arguments of `FrameworkReranker`."""

    def __init__(
        self,
        model: str | None = None,
        settings: dict[str, Any] | None = None,
        *,
        reranker: Reranker | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        choose: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        fields: dict[str, Any] = {"reranker": reranker, "top_n": top_k, "threshold": threshold, "choose": choose or {}}
        self._ranker = FrameworkReranker(model=model, settings=settings or {}, **fields)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Return the documents, best first; ``top_k`` overrides the ``top_k`` of the component."""
        return _scored_copies(documents, self._ranker.rank_positions(query, _contents(documents), top_k))

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        return _scored_copies(documents, await self._ranker.arank_positions(query, _contents(documents), top_k))

    def warm_up(self) -> None:
        self._ranker.warm_up_reranker()

    async def warm_up_async(self) -> None:
        await asyncio.to_thread(self.warm_up)

    def close(self) -> None:
        self._ranker.close_reranker()

    async def close_async(self) -> None:
        await asyncio.to_thread(self.close)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dictionary, from which `from_dict` builds the component."""
        stored = self._ranker.model_dump(exclude={"top_n"})
        return dict(default_to_dict(self, top_k=self._ranker.top_n, **stored))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RerankerComponent:
        read: RerankerComponent = default_from_dict(cls, data)
        return read


def _contents(documents: list[Document]) -> list[dict[str, Any]]:
    return [{"text": document.content or "", "embedding": document.embedding} for document in documents]


def _scored_copies(documents: list[Document], positions: RankedPositions) -> dict[str, list[Document]]:
    return {"documents": [replace(documents[position], score=score) for position, score in positions]}
