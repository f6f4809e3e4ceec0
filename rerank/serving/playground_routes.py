"""Routes of the playground: a page at `/` for trying the reranker, and endpoints that only this page uses."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from rerank.io.page_style import read_page_style
from rerank.retrieval.base.given_documents import given_first_stage_query
from rerank.serving.api_errors import READING_ERRORS, ApiError, error_documentation
from rerank.serving.disconnects import run_while_connected
from rerank.serving.playground_examples import (
    playground_command_example,
    playground_curl_example,
    playground_python_example,
)
from rerank.serving.playground_service import PlaygroundRanking, PlaygroundService
from rerank.tasks import Reply
from rerank.tasks import Request as ModelRequest
from rerank.tasks.dialects.question import ApiBody, GivenDocument, document_texts
from rerank.types import Document, Query, Ranking

#: The page may only load its own files and call its own server, and no other page may show it in a frame.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_FILES = {
    "/": ("playground.html", "text/html"),
    "/playground.js": ("playground.js", "text/javascript"),
}


class PlaygroundRequest(ApiBody):
    """Request of the playground to rank given documents or documents of the server's collection.

    Attributes:
        query: The query; if empty, the collection's query with the id ``query_id`` is used.
        query_id: Id of a query of the collection.
        documents: Documents to rank; None to use documents of the collection.
        scores: First-stage scores of the documents, in non-increasing order; None if there are none.
        ids: Ids of the documents to take from the collection; None to search the collection.
        depth: Number of documents to rank.
        method: Name of the method; empty for the server's own method.
        heat: Whether to return the share of attention that each word received.
    """

    query: str = ""
    query_id: str = ""
    documents: list[GivenDocument] | None = None
    scores: list[float] | None = None
    ids: list[str] | None = None
    depth: int = Field(default=20, ge=1, le=1000)
    method: str = ""
    heat: bool = False


def add_playground_routes(app: FastAPI, playground: PlaygroundService) -> None:
    """Add the playground's page and its endpoints to the application."""
    style = read_page_style("rerank.serving", "playground/playground.css")
    app.add_api_route("/playground.css", _text_endpoint(style, "text/css"), include_in_schema=False)
    for path, (name, kind) in _FILES.items():
        text = files(__package__).joinpath("playground", name).read_text(encoding="utf-8")
        app.add_api_route(path, _text_endpoint(text, kind), include_in_schema=False)

    @app.get(
        "/playground/settings",
        summary="Return the model, methods and collection of the playground",
        responses=error_documentation(statuses=READING_ERRORS),
    )
    def settings() -> dict[str, Any]:
        search = playground.search
        return {
            "model": playground.service.settings.name,
            "methods": playground.describe_methods(),
            "collection": None if search is None else search.name,
            "max_documents": playground.service.settings.max_documents,
        }

    @app.post("/playground/rank", summary="Rank documents for the playground", responses=error_documentation())
    async def rank(request: Request, body: PlaygroundRequest) -> dict[str, Any]:
        timeout = playground.service.settings.timeout
        return await run_while_connected(request, _rank(playground, body, request), timeout=timeout)


def _text_endpoint(text: str, kind: str) -> Any:
    async def send_text() -> Response:
        return Response(text, media_type=kind, headers=_HEADERS)

    return send_text


async def _rank(playground: PlaygroundService, body: PlaygroundRequest, request: Request) -> dict[str, Any]:
    async def find(query: Query) -> Ranking:
        return await _candidates(playground, body, query)

    query = await _query(playground, body)
    ranking = await playground.rank(query, find, body.method, request.state.client, heat=body.heat)
    candidates = ranking.candidates
    ranker = _shown_settings(playground, body.method)
    has_key = "authorization" in request.headers
    url = str(request.base_url).rstrip("/")
    return {
        **_describe_ranking(ranking),
        "calls": [_describe_call(*call) for call in ranking.calls],
        "examples": {
            "curl": playground_curl_example(url, candidates, method=body.method, has_key=has_key),
            "python": playground_python_example(ranker, candidates),
            "command": playground_command_example(ranker, candidates),
        },
    }


async def _query(playground: PlaygroundService, body: PlaygroundRequest) -> Query:
    text = body.query or (await playground.query_text(body.query_id) if body.query_id else "")
    if not text.strip():
        found = f"The collection has no query {body.query_id!r}" if body.query_id else "The query is empty"
        raise ApiError(422, f"{found}; expected a query")
    return given_first_stage_query(text)


async def _candidates(playground: PlaygroundService, body: PlaygroundRequest, query: Query) -> Ranking:
    if body.documents is None:
        return await playground.candidates(query, body.ids, body.depth)
    # Ids sent by clients may repeat, so the documents are numbered instead.
    texts = enumerate(document_texts(body.documents[: body.depth]), 1)
    documents = tuple(Document(id=str(number), text=text) for number, text in texts)
    return Ranking(query, documents, tuple(body.scores or ())[: body.depth])


def _shown_settings(playground: PlaygroundService, method: str) -> Mapping[str, Any]:
    """Return the settings that open a method, without settings that contain ``@``, such as a URL with a password."""
    named = {name: value for name, value in playground.service.ranker.items() if "@" not in str(value)}
    return {**named, "method": method} if method else named


def _describe_ranking(ranking: PlaygroundRanking) -> dict[str, Any]:
    hits, spans = ranking.ranked.hits, ranking.ranked.spans
    candidates, usage = ranking.candidates, hits.usage
    return {
        "query": candidates.query.text,
        "documents": [
            {
                "id": document.id,
                "text": document.full_text,
                "score": candidates.scores[n] if candidates.scores else None,
                "words": None if spans is None else [[span.start, span.end, span.score] for span in spans[n]],
            }
            for n, document in enumerate(candidates.docs)
        ],
        "results": [{"index": hit.corpus_id, "score": hit.score, "relevance": hit.relevance} for hit in hits],
        "score_kind": hits.score_kind,
        "usage": {
            "calls": usage.calls,
            "tokens_in": usage.tokens_in,
            "tokens_out": usage.tokens_out,
            "tokens_cached": usage.tokens_cached,
        },
        "seconds": ranking.seconds,
        "cost": hits.cost,
        "warnings": list(ranking.ranked.warnings),
    }


def _describe_call(request: ModelRequest, reply: Reply) -> dict[str, Any]:
    return {
        "task": type(request.task).__name__,
        "prompt": [{"role": message.role, "content": message.content} for message in request.prompt],
        "completion": reply.text,
        "thoughts": reply.thoughts,
        "scores": list(reply.scores[:100]),
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
        "seconds": reply.seconds,
        "finish": reply.finish,
    }
