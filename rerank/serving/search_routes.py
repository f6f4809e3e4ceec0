"""Endpoint `/v1/search`, which retrieves documents of a loaded collection and reranks them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, Request
from pydantic import AliasChoices, Field

from rerank.collections.base import Corpus
from rerank.retrieval import open_first_stage
from rerank.retrieval.base import Retriever
from rerank.serving.errors import documented, run_while_connected
from rerank.serving.ranking_service import RankingService
from rerank.tasks.dialects.question import ApiBody, GivenText, RerankQuestion
from rerank.types import Query, Ranking


class SearchRequest(ApiBody):
    """Search request: ``depth`` documents are retrieved and reranked; the best ``top_n`` (0: all) are returned."""

    query: GivenText
    top_n: int = Field(default=10, ge=0, le=1000, validation_alias=AliasChoices("top_n", "top_k"))
    depth: int = Field(default=100, ge=1, le=1000)
    return_documents: bool = True
    instruction: GivenText | None = None
    deadline_ms: float | None = Field(default=None, gt=0, le=86_400_000)


class SearchResult(ApiBody):
    """A document that was found. ``first_stage_score`` is None if the first stage returns no scores."""

    id: str
    title: str | None = None
    text: str | None = None
    relevance_score: float
    first_stage_rank: int
    first_stage_score: float | None = None


class SearchResponse(ApiBody):
    """Response to a search, with the documents sorted best first."""

    id: str
    model: str
    results: list[SearchResult]
    usage: dict[str, int]
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionSearch:
    """A first stage over a loaded collection, with its index."""

    corpus: Corpus
    retriever: Retriever

    @classmethod
    def open(cls, corpus: Corpus, first_stage: str) -> CollectionSearch:
        """Open a first stage over a collection; its index is built if it does not exist."""
        return cls(corpus=corpus, retriever=open_first_stage(first_stage, corpus))

    async def search(self, query: str, depth: int) -> Ranking:
        run = await asyncio.to_thread(self.retriever.search, [Query(id="search", text=query)], depth)
        return run["search"]


def with_candidates(question: RerankQuestion, candidates: Ranking) -> RerankQuestion:
    """Return the rerank question with the documents and scores that a first stage found for its query."""
    texts = [document.full_text for document in candidates.docs]
    return replace(question, documents=texts, scores=list(candidates.scores) or None)


def add_search_routes(app: FastAPI, service: RankingService, search: CollectionSearch) -> None:
    """Add the endpoint ``/v1/search`` to the application."""

    @app.post("/v1/search", summary="Retrieve and rerank", response_model_exclude_none=True, responses=documented())
    async def search_collection(request: Request, body: SearchRequest) -> SearchResponse:
        work = search_and_rerank(service, search, body, request.state.client)
        return await run_while_connected(request, work, timeout=service.settings.timeout)


async def search_and_rerank(
    service: RankingService, search: CollectionSearch, body: SearchRequest, client: str
) -> SearchResponse:
    """Retrieve documents, rerank them, and return the best documents.

    ``client`` is the caller's name, by which the queue of the service lets callers take turns.
    """
    service.check_documents(body.depth)
    ranking = Ranking(Query(id="search", text=body.query), ())

    # The service calls it when the request has its turn, so that the deadline covers retrieval, and few search at once.
    async def retrieve(question: RerankQuestion) -> RerankQuestion:
        nonlocal ranking
        ranking = await search.search(body.query, body.depth)
        return with_candidates(question, ranking)

    question = RerankQuestion(
        query=body.query,
        documents=[],
        top_n=body.top_n or None,
        instruction=body.instruction or "",
        deadline=None if body.deadline_ms is None else body.deadline_ms / 1000,
    )
    answer = await service.answer(question, client, retrieve=retrieve)
    results = []
    for result in answer.results:
        document = ranking.docs[result.index]
        results.append(
            SearchResult(
                id=document.id,
                title=document.title or None if body.return_documents else None,
                text=document.text if body.return_documents else None,
                relevance_score=result.relevance_score,
                first_stage_rank=result.index + 1,
                first_stage_score=ranking.scores[result.index] if ranking.scores else None,
            )
        )
    return SearchResponse(
        id=answer.id,
        model=answer.model,
        results=results,
        usage={"prompt_tokens": answer.tokens_in, "total_tokens": answer.tokens},
        meta={"warnings": list(answer.warnings), "collection": search.corpus.name},
    )
