"""The playground: a page at `/` for trying methods, which shows prompts, completions, and code to repeat a ranking."""

import asyncio
import json
import pprint
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from rerank.collections import Collection, fetch_documents
from rerank.errors import RerankError, UnknownNameError, UsageError, error_repr
from rerank.io.reports import read_page_style
from rerank.judges.attention import Attention
from rerank.methods import method_names, open_method
from rerank.reranker import Reranker
from rerank.retrieval.base.given_documents import given_first_stage_query
from rerank.serving.errors import READING_ERRORS, ApiError, documented, run_while_connected
from rerank.serving.ranking_service import RankedQuestion, RankingService
from rerank.serving.search_routes import CollectionSearch, with_candidates
from rerank.store import NoLog, log_calls
from rerank.tasks import Reply
from rerank.tasks import Request as ModelRequest
from rerank.tasks.dialects.question import (
    ApiBody,
    GivenDocument,
    GivenList,
    GivenText,
    RerankQuestion,
    SpanSettings,
    document_texts,
)
from rerank.types import Document, Query, Ranking

#: Maximum number of characters of all documents in examples: shells accept no longer arguments.
_SHOWN_EXAMPLE = 100_000
_SHOWN_CALLS = 20  #: Maximum number of calls of a ranking whose prompts and completions are kept and shown.
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
_FILES = {"/": ("playground.html", "text/html"), "/playground.js": ("playground.js", "text/javascript")}


class CallRecorder(NoLog):
    """In-memory log of the first calls of each ranking in progress, keyed by the query object, as all ids are equal."""

    def __init__(self) -> None:
        self._calls: dict[int, list[tuple[ModelRequest, Reply]]] = {}

    @contextmanager
    def record(self, query: Query) -> Iterator[list[tuple[ModelRequest, Reply]]]:
        calls = self._calls.setdefault(id(query), [])
        try:
            yield calls
        finally:
            del self._calls[id(query)]

    def put(self, rows: Sequence[tuple[str, ModelRequest, Reply]], model: str) -> list[None]:
        """Keep the first calls for each query that is being recorded, and drop the other calls."""
        for _, request, reply in rows:
            calls = self._calls.get(id(request.window.query), [])
            if len(calls) < _SHOWN_CALLS:
                calls.append((request, reply))
        return super().put(rows, model)


class PlaygroundRequest(ApiBody):
    """Request of the playground to rank given documents or documents of the server's collection."""

    query: GivenText = ""
    query_id: GivenText = ""  # of the query of the collection that is used if the query is empty
    documents: GivenList[GivenDocument] | None = None  # None to use documents of the collection
    scores: GivenList[float] | None = None  # of the first stage, in non-increasing order
    ids: GivenList[GivenText] | None = None  # of documents of the collection; None to search it
    depth: int = Field(default=20, ge=1, le=1000)  # number of documents to rank
    method: str = ""  # empty for the server's own method
    heat: bool = False  # whether to return the share of attention that each word received


@dataclass(frozen=True, kw_only=True)
class PlaygroundService:
    """Service that ranks with any method of the server's model, within the limits and the queue of the server."""

    service: RankingService = field(repr=False)
    search: CollectionSearch | None = None
    _recorder: CallRecorder = field(default_factory=CallRecorder, repr=False)

    @cached_property
    def methods(self) -> dict[str, Reranker]:
        """Rerankers with the server's model, keyed by method name. The server's own method is first, as ``""``."""
        own = self.service.reranker
        rerankers = {"": own}
        for name in method_names():
            try:
                reranker = Reranker.from_backend(own.backend, method=name)
            except RerankError:  # the model does not support the judge, or has no list of attention heads
                continue
            if not reranker.judge.template.pictures:  # the playground's passages are texts
                rerankers[name] = reranker
        backend = log_calls(own.backend, self._recorder)
        return {name: replace(reranker, backend=backend) for name, reranker in rerankers.items()}

    def describe_methods(self) -> list[dict[str, object]]:
        """Return the name, label and summary of each method, and whether it can show the attention of each word."""
        rows: list[dict[str, object]] = []
        for name, reranker in self.methods.items():
            summary = open_method(name).summary if name else "the method that this server uses for other requests"
            label = name or f"{reranker.name} (served)"
            rows.append(
                {"name": name, "label": label, "summary": summary, "heat": isinstance(reranker.judge, Attention)}
            )
        return rows

    async def rank(self, body: PlaygroundRequest, request: Request) -> dict[str, Any]:
        """Rank with a method (without options, as some name files), and return all that the page shows."""
        query, started = await self._query(body), time.monotonic()
        methods = await asyncio.to_thread(lambda: self.methods)
        if body.method not in methods:
            raise UnknownNameError("method", body.method, list(methods))
        candidates = Ranking(query, ())

        async def retrieve(question: RerankQuestion) -> RerankQuestion:
            nonlocal candidates
            candidates = await self._candidates(body, query)
            return with_candidates(question, candidates)

        spans = SpanSettings(unit="word", threshold=None) if body.heat else None
        question = RerankQuestion(query=query.text, documents=[], spans=spans)
        service = replace(self.service, reranker=methods[body.method])
        with self._recorder.record(query) as calls:
            ranked = await service.rank(question, request.state.client, query=query, retrieve=retrieve)
            calls = [*calls]
        # In a thread, since the texts may be large.
        return await asyncio.to_thread(
            self._describe, body, candidates, ranked, calls, time.monotonic() - started, request
        )

    def _describe(
        self,
        body: PlaygroundRequest,
        candidates: Ranking,
        ranked: RankedQuestion,
        calls: Sequence[tuple[ModelRequest, Reply]],
        seconds: float,
        request: Request,
    ) -> dict[str, Any]:
        """Return all that the page shows of a ranking."""
        # Without settings that contain ``@``, such as a URL with a password.
        ranker = {name: value for name, value in self.service.ranker.items() if "@" not in str(value)}
        ranker |= {"method": body.method} if body.method else {}
        url, has_key = str(request.base_url).rstrip("/"), "authorization" in request.headers
        hits, usage = ranked.hits, ranked.hits.usage
        is_large = sum(len(document.full_text) for document in candidates.docs) > _SHOWN_EXAMPLE
        return {
            "query": candidates.query.text,
            "documents": [
                {
                    "id": document.id,
                    "text": document.full_text,
                    "score": candidates.scores[n] if candidates.scores else None,
                    "words": ranked.spans and [[span.start, span.end, span.score] for span in ranked.spans[n]],
                }
                for n, document in enumerate(candidates.docs)
            ],
            "results": [{"index": hit.corpus_id, "score": hit.score, "relevance": hit.relevance} for hit in hits],
            "score_kind": hits.score_kind,
            "usage": {name: getattr(usage, name) for name in ("calls", "tokens_in", "tokens_out", "tokens_cached")},
            "seconds": seconds,
            "cost": hits.cost,
            "warnings": list(ranked.warnings),
            "calls": [_describe_call(*call) for call in calls],
            "examples": {}
            if is_large
            else {
                "curl": curl_example(url, candidates, method=body.method, has_key=has_key),
                "python": python_example(ranker, candidates),
                "command": command_example(ranker, candidates),
            },
        }

    async def _query(self, body: PlaygroundRequest) -> Query:
        text = body.query
        if not text and body.query_id:
            corpus = None if self.search is None else self.search.corpus
            queries = await asyncio.to_thread(corpus.queries) if isinstance(corpus, Collection) else []
            text = next((query.text for query in queries if query.id == body.query_id), "")
        if not text.strip():
            found = (
                f"The collection has no query {error_repr(body.query_id)}" if body.query_id else "The query is empty"
            )
            raise ApiError(422, f"{found}; expected a query")
        return replace(
            given_first_stage_query(text)
        )  # a new object: the recorder distinguishes queries by their identity

    async def _candidates(self, body: PlaygroundRequest, query: Query) -> Ranking:
        """Return up to ``depth`` documents: those given, those with the given ids, or the results of a search."""
        if body.documents is not None:  # ids sent by clients may repeat, so the documents are numbered instead
            texts = enumerate(await asyncio.to_thread(document_texts, body.documents[: body.depth]), 1)
            documents = tuple(Document(id=str(number), text=text) for number, text in texts)
            return Ranking(query, documents, tuple(body.scores or ())[: body.depth])
        if self.search is None:
            raise UsageError(
                "The server has no collection",
                expected="the passages in the request",
                remedy="Send the passages, or start the server with --collection",
            )
        if body.ids is None:
            return replace(await self.search.search(query.text, body.depth), query=query)
        shown = list(dict.fromkeys(body.ids))[: body.depth]
        found = await asyncio.to_thread(fetch_documents, self.search.corpus, shown)
        return Ranking(query, tuple(found[doc_id] for doc_id in shown))


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
        responses=documented(statuses=READING_ERRORS),
    )
    def settings() -> dict[str, Any]:
        search = playground.search
        return {
            "model": playground.service.settings.name,
            "methods": playground.describe_methods(),
            "collection": None if search is None else search.corpus.name,
            "max_documents": playground.service.settings.max_documents,
        }

    @app.post("/playground/rank", summary="Rank documents for the playground", responses=documented())
    async def rank(request: Request, body: PlaygroundRequest) -> dict[str, Any]:
        timeout = playground.service.settings.timeout
        return await run_while_connected(request, playground.rank(body, request), timeout=timeout)


def _text_endpoint(text: str, kind: str) -> Any:
    async def send_text() -> Response:
        return Response(text, media_type=kind, headers=_HEADERS)

    return send_text


# Code that repeats a ranking


def curl_example(url: str, candidates: Ranking, *, method: str, has_key: bool) -> str:
    """Return a curl command that requests the ranking, with a key that it reads from the variable ``RERANK_KEY``."""
    # The server's own method is available without the playground's endpoint.
    path = "/playground/rank" if method else "/v2/rerank"
    body: dict[str, Any] = {"query": candidates.query.text, "documents": _texts(candidates)}
    if candidates.scores:
        body["scores"] = candidates.scores
    if method:
        body |= {"method": method, "depth": len(candidates)}
    key = ' -H "Authorization: Bearer $RERANK_KEY"' if has_key else ""
    return (
        f"curl {shlex.quote(url + path)}{key} -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def python_example(ranker: Mapping[str, Any], candidates: Ranking) -> str:
    """Return Python code that computes the ranking with the library, given arguments of `Reranker.from_pretrained`."""
    settings = ", ".join(f"{name}={value!r}" for name, value in ranker.items())
    return (
        f"from rerank import Reranker\n\nreranker = Reranker.from_pretrained({settings})\n"
        f"query = {candidates.query.text!r}\ndocuments = {pprint.pformat(_texts(candidates), width=100)}\n"
        f"scores = {list(candidates.scores) or None}\n"
        "for hit in reranker.rank(query, documents, scores=scores):\n    print(hit.rank, hit.score, hit.text)"
    )


def command_example(ranker: Mapping[str, Any], candidates: Ranking) -> str:
    """Return shell commands that write the query and the documents to a file, and rank them."""
    # The id is the one that queries without id have in Python: random orders of some methods depend on the id.
    query = {"qid": candidates.query.id, "text": candidates.query.text}
    entries = [{"docid": str(position), "doc": {"text": text}} for position, text in enumerate(_texts(candidates), 1)]
    scored = [{**entry, "score": score} for entry, score in zip(entries, candidates.scores, strict=False)]
    request = json.dumps({"query": query, "candidates": scored or entries}, ensure_ascii=False)
    flags = " ".join(_flag(name, value) for name, value in ranker.items())
    return (
        f"printf '%s\\n' {shlex.quote(request)} > request.jsonl\n"
        f"rerank rerank --collection requests:request.jsonl {flags}".rstrip()
    )


def _texts(candidates: Ranking) -> list[str]:
    return [document.full_text for document in candidates.docs]


def _flag(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {shlex.quote(str(value))}"
