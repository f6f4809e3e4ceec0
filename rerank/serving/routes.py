"""Endpoints that rank: the request formats (dialects) of rerank APIs, pairs of texts to score, and typed questions."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import Discriminator, Tag
from starlette.exceptions import HTTPException

from rerank.reranker.hits import RANK_BASED, compute_pair_scores
from rerank.serving.decision_service import DecisionService
from rerank.serving.errors import documented, run_while_connected
from rerank.serving.ranking_service import RankingService
from rerank.tasks.dialects.decisions import DecisionRequest, DecisionResponse
from rerank.tasks.dialects.question import RerankAnswer, RerankBody
from rerank.tasks.dialects.rerank import (
    CohereError,
    CohereRequest,
    CohereResponse,
    CommonError,
    CommonRequest,
    CommonResponse,
    CommonUsage,
    MixedbreadRequest,
    MixedbreadResponse,
    NimRequest,
    NimResponse,
    OpenaiError,
    PairScore,
    ScoreRequest,
    ScoreResponse,
    SglangError,
    SglangResult,
    TeiError,
    TeiRequest,
    TeiResult,
    ZeroentropyResponse,
    sglang_results,
    tei_results,
)

T = TypeVar("T")

#: Minimum size of a body that is converted in a thread, in bytes: smaller ones take about a millisecond.
_LARGE_BODY = 100_000
#: Maximum number of elements of a list in a body if the server accepts fewer documents.
_MAX_ELEMENTS = 1000

#: Paths that several dialects share; the body of a request determines its dialect.
SHARED_PATHS = ("/rerank", "/v1/rerank", "/reranking", "/v1/reranking")

#: Response header with the warnings, for dialects whose bodies have no field for warnings.
WARNINGS_HEADER = "X-Rerank-Warnings"

#: Warning for scores computed from ranks among the documents of the same query.
_RANKS_OF_QUERIES = (
    "The scores of different queries cannot be compared: each is 1 / rank among the documents of its query, so a "
    "query's only document scores 1. The method has no calibration (rerank calibrate)."
)


def dialect_of_body(body: Any) -> Literal["tei", "mixedbread", "common"]:
    """Return the dialect of a request to the shared paths.

    TEI's requests have ``texts``, Mixedbread's ``input``, and all others ``documents``.
    """
    if isinstance(body, dict):
        return "tei" if "texts" in body else "mixedbread" if "input" in body and "documents" not in body else "common"
    return "tei" if isinstance(body, TeiRequest) else "mixedbread" if isinstance(body, MixedbreadRequest) else "common"


_AnyRequest = Annotated[
    Annotated[CommonRequest, Tag("common")]
    | Annotated[TeiRequest, Tag("tei")]
    | Annotated[MixedbreadRequest, Tag("mixedbread")],
    Discriminator(dialect_of_body),
]


class _CountedRequest(Request):
    """A request whose lists are counted before their elements are checked, which takes much longer."""

    max_elements = _MAX_ELEMENTS

    async def json(self) -> Any:
        body = await super().json()
        self.state.is_tei = self.scope["path"] in SHARED_PATHS and dialect_of_body(body) == "tei"
        for name, value in body.items() if isinstance(body, dict) else ():
            for part in value.values() if isinstance(value, dict) else (value,):
                if isinstance(part, list) and len(part) > self.max_elements:
                    found = f"The request has {len(part)} {name[:50]}; expected at most {self.max_elements}"
                    raise HTTPException(413, found)
        return body


def counted_route(max_documents: int) -> type[APIRoute]:
    """Return the class of the server's routes, which refuse bodies with longer lists than any valid body has."""

    class Counted(_CountedRequest):
        max_elements = max(max_documents, _MAX_ELEMENTS)

    class CountedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def answer_counted(request: Request) -> Response:
                return await answer(Counted(request.scope, request.receive))

            return answer_counted

    return CountedRoute


async def call_beside_loop(request: Request, function: Callable[[], T]) -> T:
    """Return the result of a function of a request; it is called in a thread if the body is large."""
    is_large = len(await request.body()) > _LARGE_BODY
    return await asyncio.to_thread(function) if is_large else function()


def add_rerank_routes(app: FastAPI, service: RankingService) -> None:
    """Add the rerank endpoints of all dialects to the application."""

    async def answer(request: Request, body: RerankBody, response: Response | None = None) -> RerankAnswer:
        """Return the answer; if a response is given, add the answer's warnings to the headers of the response."""
        work = service.answer(await call_beside_loop(request, body.to_question), request.state.client)
        found = await run_while_connected(request, work, timeout=service.settings.timeout)
        if response is not None:
            _add_warnings_header(response, found.warnings)
        return found

    @app.post(
        "/v2/rerank",
        summary="Rerank in the format of Cohere's API version 2",
        response_model_exclude_none=True,
        responses=documented(CohereError),
    )
    async def rerank_v2(request: Request, body: CohereRequest) -> CohereResponse:
        return CohereResponse.from_answer(await answer(request, body))

    for_any: dict[str, Any] = {
        "summary": "Rerank in the format of Cohere's API version 1, Jina, vLLM, Voyage, TEI or Mixedbread",
        "response_model": CommonResponse | list[TeiResult] | MixedbreadResponse,
        "responses": documented(CommonError | TeiError),
    }

    @app.post(SHARED_PATHS[0], **for_any)
    @app.post(SHARED_PATHS[1], **for_any)
    @app.post(SHARED_PATHS[2], **for_any)  # llama.cpp's server
    @app.post(SHARED_PATHS[3], **for_any)
    async def rerank_common(request: Request, response: Response, body: _AnyRequest) -> Any:
        request.state.is_tei = isinstance(body, TeiRequest)
        if isinstance(body, TeiRequest):
            results = tei_results(await answer(request, body, response))
            return JSONResponse([row.model_dump(exclude_none=True) for row in results], headers=dict(response.headers))
        if isinstance(body, MixedbreadRequest):
            return MixedbreadResponse.from_answer(await answer(request, body, response))
        return CommonResponse.from_answer(await answer(request, body), repeats_documents=body.return_documents is True)

    @app.post("/sglang/v1/rerank", summary="Rerank in SGLang's format", responses=documented(SglangError))
    async def rerank_sglang(request: Request, response: Response, body: CommonRequest) -> list[SglangResult]:
        return sglang_results(await answer(request, body, response))

    @app.post("/v1/ranking", summary="Rerank in the format of NVIDIA NIM", responses=documented())
    async def rerank_nim(request: Request, response: Response, body: NimRequest) -> NimResponse:
        return NimResponse.from_answer(await answer(request, body, response))

    @app.post("/v1/models/rerank", summary="Rerank in ZeroEntropy's format", responses=documented())
    async def rerank_zeroentropy(request: Request, response: Response, body: CommonRequest) -> ZeroentropyResponse:
        return ZeroentropyResponse.from_answer(await answer(request, body, response))


def add_score_routes(app: FastAPI, service: RankingService) -> None:
    """Add the endpoints ``/score`` and ``/v1/score`` to the application."""

    @app.post("/score", summary="Score pairs in the format of vLLM", responses=documented())
    @app.post("/v1/score", summary="Score pairs in the format of vLLM", responses=documented())
    async def score(request: Request, response: Response, body: ScoreRequest) -> ScoreResponse:
        pairs = await call_beside_loop(request, body.pairs)
        work = _score_pairs(service, body, pairs, request.state.client)
        found, warnings = await run_while_connected(request, work, timeout=service.settings.timeout)
        _add_warnings_header(response, warnings)
        return found


async def _score_pairs(
    service: RankingService, body: ScoreRequest, pairs: Sequence[tuple[str, str]], client: str
) -> tuple[ScoreResponse, list[str]]:
    """Rank the documents of each query; return their scores in the order of the request, and the warnings."""
    by_query: dict[str, list[int]] = {}
    service.check_documents(len(pairs))
    for index, (query, _) in enumerate(pairs):
        by_query.setdefault(query, []).append(index)
    seconds, started = service.settings.deadline, time.monotonic()
    found = []
    warnings: dict[str, None] = {}
    for query, indices in by_query.items():
        question = body.limits(
            query=query,
            documents=[pairs[index][1] for index in indices],
            model=body.model,
            max_document_tokens=body.max_tokens_per_doc or None,
            deadline=None if seconds is None else seconds - (time.monotonic() - started),
        )
        ranked = await service.rank(question, client)
        found.append(ranked)
        warnings |= dict.fromkeys(ranked.warnings)
    scores = [0.0] * len(pairs)
    raw = [[hit.score for hit in ranked.hits if hit.score is not None] for ranked in found]
    notes: list[str] = []
    if body.raw and all(len(logits) == len(ranked.hits) for logits, ranked in zip(raw, found, strict=True)):
        list_scores = raw
    else:  # one scale for all queries
        list_scores, notes = compute_pair_scores([ranked.hits for ranked in found])
        notes += ["The scores are not raw, because some documents have none"] * body.raw
    for indices, ranked, hit_scores in zip(by_query.values(), found, list_scores, strict=True):
        for hit, score in zip(ranked.hits, hit_scores, strict=True):
            scores[indices[hit.corpus_id]] = score
    warnings |= dict.fromkeys(notes)
    usages = [ranked.hits.usage for ranked in found]
    tokens_in, tokens_out = sum(usage.tokens_in for usage in usages), sum(usage.tokens_out for usage in usages)
    if len(by_query) > 1 and warnings.pop(RANK_BASED, "") is None:
        warnings[_RANKS_OF_QUERIES] = None
    response = ScoreResponse(
        id=f"score-{time.time_ns():x}",
        created=int(time.time()),
        model=service.settings.name,
        data=[PairScore(index=index, score=score) for index, score in enumerate(scores)],
        usage=CommonUsage(prompt_tokens=tokens_in, total_tokens=tokens_in + tokens_out),
    )
    return response, list(warnings)


def add_decision_routes(app: FastAPI, service: RankingService) -> None:
    """Add the endpoint ``/v1/decisions`` to the application."""
    decisions = DecisionService(service)

    @app.post("/v1/decisions", summary="Answer typed questions with probabilities", responses=documented(OpenaiError))
    async def decide(request: Request, body: DecisionRequest) -> DecisionResponse:
        text = await call_beside_loop(request, body.input_text)
        work = decisions.decide(body, text, request.state.client)
        return await run_while_connected(request, work, timeout=service.settings.timeout)


def _add_warnings_header(response: Response, warnings: Sequence[str]) -> None:
    """Add warnings as a header of at most 1000 ASCII characters, for dialects whose bodies have no such field."""
    if warnings:
        line = " ".join("; ".join(warnings).split())  # a header is one line
        response.headers[WARNINGS_HEADER] = "".join(c if " " <= c <= "~" else "?" for c in line)[:1000]
