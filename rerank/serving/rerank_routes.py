"""The rerank endpoints of all dialects, and the score endpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import Discriminator, Tag

from rerank.serving.api_errors import error_documentation
from rerank.serving.disconnects import run_while_connected
from rerank.serving.ranking_service import RankingService
from rerank.tasks.dialects.cohere import CohereRequest, CohereResponse
from rerank.tasks.dialects.common import CommonRequest, CommonResponse, CommonUsage
from rerank.tasks.dialects.errors import CohereError, CommonError, SglangError, TeiError
from rerank.tasks.dialects.question import RerankAnswer, RerankBody, RerankQuestion
from rerank.tasks.dialects.scores import PairScore, ScoreRequest, ScoreResponse
from rerank.tasks.dialects.sglang import SglangResult, sglang_results
from rerank.tasks.dialects.tei import TeiRequest, TeiResult, tei_results

#: Header with the warnings of answers that are lists and have no place for them.
WARNINGS_HEADER = "X-Rerank-Warnings"


def _dialect_of_body(body: Any) -> Literal["tei", "common"]:
    """TEI's requests have ``texts``, all others ``documents``."""
    is_tei = "texts" in body if isinstance(body, dict) else isinstance(body, TeiRequest)
    return "tei" if is_tei else "common"


_AnyRequest = Annotated[
    Annotated[CommonRequest, Tag("common")] | Annotated[TeiRequest, Tag("tei")], Discriminator(_dialect_of_body)
]


def add_rerank_routes(app: FastAPI, service: RankingService) -> None:
    """Add the endpoints to the application."""

    async def answer(request: Request, body: RerankBody) -> RerankAnswer:
        work = service.answer(body.to_question(), request.state.client)
        return await run_while_connected(request, work, timeout=service.settings.timeout)

    @app.post(
        "/v2/rerank",
        summary="Rerank as Cohere's version 2",
        response_model_exclude_none=True,
        responses=error_documentation(CohereError),
    )
    async def rerank_v2(request: Request, body: CohereRequest) -> CohereResponse:
        return CohereResponse.from_answer(await answer(request, body))

    for_any: dict[str, Any] = {
        "summary": "Rerank as Cohere's version 1, Jina, vLLM, Voyage or TEI",
        "responses": error_documentation(CommonError | TeiError),
    }

    @app.post("/rerank", **for_any)
    @app.post("/v1/rerank", **for_any)
    async def rerank_common(
        request: Request, response: Response, body: _AnyRequest
    ) -> CommonResponse | list[TeiResult]:
        request.state.is_tei = isinstance(body, TeiRequest)
        found = await answer(request, body)
        if isinstance(body, TeiRequest):
            _add_warnings_header(response, found.warnings)
            return tei_results(found)
        return CommonResponse.from_answer(found, repeats_documents=body.return_documents is True)

    @app.post("/sglang/v1/rerank", summary="Rerank as SGLang", responses=error_documentation(SglangError))
    async def rerank_sglang(request: Request, response: Response, body: CommonRequest) -> list[SglangResult]:
        found = await answer(request, body)
        _add_warnings_header(response, found.warnings)
        return sglang_results(found)

    @app.post("/score", summary="Scores of pairs, as vLLM")
    @app.post("/v1/score", summary="Scores of pairs, as vLLM")
    async def score(request: Request, response: Response, body: ScoreRequest) -> ScoreResponse:
        work = _score_pairs(service, body, request.state.client)
        found, warnings = await run_while_connected(request, work, timeout=service.settings.timeout)
        _add_warnings_header(response, warnings)
        return found


def _add_warnings_header(response: Response, warnings: Sequence[str]) -> None:
    if warnings:
        line = " ".join("; ".join(warnings).split())  # a header is one line
        response.headers[WARNINGS_HEADER] = "".join(c if " " <= c <= "~" else "?" for c in line)[:1000]


async def _score_pairs(service: RankingService, body: ScoreRequest, client: str) -> tuple[ScoreResponse, list[str]]:
    """Rank the documents of each query, and return their scores in the order of the request, with the warnings."""
    by_query: dict[str, list[int]] = {}
    pairs = body.pairs()
    service.check_documents(len(pairs))
    for index, (query, _) in enumerate(pairs):
        by_query.setdefault(query, []).append(index)
    scores = [0.0] * len(pairs)
    tokens_in = tokens_out = 0
    warnings: dict[str, None] = {}
    for query, indices in by_query.items():
        question = RerankQuestion(
            query=query,
            documents=[pairs[index][1] for index in indices],
            model=body.model,
            instruction=body.instruction or "",
        )
        answer = await service.answer(question, client)
        for result in answer.results:
            scores[indices[result.index]] = result.relevance_score
        tokens_in, tokens_out = tokens_in + answer.tokens_in, tokens_out + answer.tokens_out
        warnings |= dict.fromkeys(answer.warnings)
    response = ScoreResponse(
        id=f"score-{time.time_ns():x}",
        created=int(time.time()),
        model=service.settings.name,
        data=[PairScore(index=index, score=score) for index, score in enumerate(scores)],
        usage=CommonUsage(prompt_tokens=tokens_in, total_tokens=tokens_in + tokens_out),
    )
    return response, list(warnings)
