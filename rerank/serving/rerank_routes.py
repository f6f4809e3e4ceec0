"""The rerank endpoints of all dialects, and the score endpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import Discriminator, Tag

from rerank.serving.ranking_service import RankingService
from rerank.serving.request_handling import handle_request
from rerank.tasks.dialects.cohere import CohereRequest, CohereResponse
from rerank.tasks.dialects.common import CommonRequest, CommonResponse, CommonUsage
from rerank.tasks.dialects.mixedbread import MixedbreadRequest, MixedbreadResponse
from rerank.tasks.dialects.question import RerankAnswer, RerankBody, RerankQuestion
from rerank.tasks.dialects.scores import PairScore, ScoreRequest, ScoreResponse
from rerank.tasks.dialects.sglang import SglangResult, sglang_results
from rerank.tasks.dialects.tei import TeiRequest, TeiResult, tei_results
from rerank.tasks.dialects.zeroentropy import ZeroentropyResponse

#: Header with the warnings of answers that have no place for them.
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

    async def answer(request: Request, body: RerankBody, response: Response | None = None) -> RerankAnswer:
        """Return the answer, whose warnings are added to the headers of a response that has no place for them."""
        work = service.answer(body.to_question(), request.state.client)
        found = await handle_request(request, service.metrics, work)
        if response is not None:
            _add_warnings_header(response, found.warnings)
        return found

    @app.post("/v2/rerank", summary="Rerank as Cohere's version 2", response_model_exclude_none=True)
    async def rerank_v2(request: Request, body: CohereRequest) -> CohereResponse:
        return CohereResponse.from_answer(await answer(request, body))

    @app.post("/rerank", summary="Rerank as Cohere's version 1, Jina, vLLM, Voyage or TEI")
    @app.post("/v1/rerank", summary="Rerank as Cohere's version 1, Jina, vLLM, Voyage or TEI")
    async def rerank_common(
        request: Request, response: Response, body: _AnyRequest
    ) -> CommonResponse | list[TeiResult]:
        request.state.is_tei = isinstance(body, TeiRequest)
        if isinstance(body, TeiRequest):
            return tei_results(await answer(request, body, response))
        return CommonResponse.from_answer(await answer(request, body), repeats_documents=body.return_documents is True)

    @app.post("/sglang/v1/rerank", summary="Rerank as SGLang")
    async def rerank_sglang(request: Request, response: Response, body: CommonRequest) -> list[SglangResult]:
        return sglang_results(await answer(request, body, response))

    @app.post("/v1/reranking", summary="Rerank as Mixedbread")
    async def rerank_mixedbread(request: Request, response: Response, body: MixedbreadRequest) -> MixedbreadResponse:
        return MixedbreadResponse.from_answer(await answer(request, body, response))

    @app.post("/v1/models/rerank", summary="Rerank as ZeroEntropy")
    async def rerank_zeroentropy(request: Request, response: Response, body: CommonRequest) -> ZeroentropyResponse:
        return ZeroentropyResponse.from_answer(await answer(request, body, response))

    @app.post("/score", summary="Scores of pairs, as vLLM")
    @app.post("/v1/score", summary="Scores of pairs, as vLLM")
    async def score(request: Request, response: Response, body: ScoreRequest) -> ScoreResponse:
        work = _score_pairs(service, body, request.state.client)
        found, warnings = await handle_request(request, service.metrics, work)
        _add_warnings_header(response, warnings)
        return found


def _add_warnings_header(response: Response, warnings: Sequence[str]) -> None:
    if warnings:
        response.headers[WARNINGS_HEADER] = "; ".join(warnings).encode("ascii", "replace").decode()[:1000]


async def _score_pairs(service: RankingService, body: ScoreRequest, client: str) -> tuple[ScoreResponse, list[str]]:
    """Rank the documents of each query, and return their scores in the order of the request, with the warnings."""
    by_query: dict[str, list[int]] = {}
    pairs = body.pairs()
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
