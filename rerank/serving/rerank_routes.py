"""Rerank endpoints that accept the request formats (dialects) of Cohere, Jina, vLLM, TEI and other APIs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import Discriminator, Tag

from rerank.serving.api_errors import error_documentation
from rerank.serving.disconnects import run_while_connected
from rerank.serving.ranking_service import RankingService
from rerank.tasks.dialects.cohere import CohereRequest, CohereResponse
from rerank.tasks.dialects.common import CommonRequest, CommonResponse
from rerank.tasks.dialects.errors import CohereError, CommonError, SglangError, TeiError
from rerank.tasks.dialects.mixedbread import MixedbreadRequest, MixedbreadResponse
from rerank.tasks.dialects.question import RerankAnswer, RerankBody
from rerank.tasks.dialects.sglang import SglangResult, sglang_results
from rerank.tasks.dialects.tei import TeiRequest, TeiResult, tei_results
from rerank.tasks.dialects.zeroentropy import ZeroentropyResponse

#: Paths that several dialects share; the body of a request determines its dialect.
SHARED_PATHS = ("/rerank", "/v1/rerank")

#: Response header with the warnings, for dialects whose bodies have no field for warnings.
WARNINGS_HEADER = "X-Rerank-Warnings"


def dialect_of_body(body: Any) -> Literal["tei", "common"]:
    """Return the dialect of a request to the shared paths: TEI's requests have ``texts``, all others ``documents``."""
    is_tei = "texts" in body if isinstance(body, dict) else isinstance(body, TeiRequest)
    return "tei" if is_tei else "common"


_AnyRequest = Annotated[
    Annotated[CommonRequest, Tag("common")] | Annotated[TeiRequest, Tag("tei")], Discriminator(dialect_of_body)
]


def add_rerank_routes(app: FastAPI, service: RankingService) -> None:
    """Add the rerank endpoints of all dialects to the application."""

    async def answer(request: Request, body: RerankBody, response: Response | None = None) -> RerankAnswer:
        """Return the answer; if a response is given, add the answer's warnings to the headers of the response."""
        work = service.answer(body.to_question(), request.state.client)
        found = await run_while_connected(request, work, timeout=service.settings.timeout)
        if response is not None:
            add_warnings_header(response, found.warnings)
        return found

    @app.post(
        "/v2/rerank",
        summary="Rerank in the format of Cohere's API version 2",
        response_model_exclude_none=True,
        responses=error_documentation(CohereError),
    )
    async def rerank_v2(request: Request, body: CohereRequest) -> CohereResponse:
        return CohereResponse.from_answer(await answer(request, body))

    for_any: dict[str, Any] = {
        "summary": "Rerank in the format of Cohere's API version 1, Jina, vLLM, Voyage or TEI",
        "responses": error_documentation(CommonError | TeiError),
    }

    @app.post(SHARED_PATHS[0], **for_any)
    @app.post(SHARED_PATHS[1], **for_any)
    async def rerank_common(
        request: Request, response: Response, body: _AnyRequest
    ) -> CommonResponse | list[TeiResult]:
        request.state.is_tei = isinstance(body, TeiRequest)
        if isinstance(body, TeiRequest):
            return tei_results(await answer(request, body, response))
        return CommonResponse.from_answer(await answer(request, body), repeats_documents=body.return_documents is True)

    @app.post("/sglang/v1/rerank", summary="Rerank in SGLang's format", responses=error_documentation(SglangError))
    async def rerank_sglang(request: Request, response: Response, body: CommonRequest) -> list[SglangResult]:
        return sglang_results(await answer(request, body, response))

    @app.post("/v1/reranking", summary="Rerank in Mixedbread's format", responses=error_documentation())
    async def rerank_mixedbread(request: Request, response: Response, body: MixedbreadRequest) -> MixedbreadResponse:
        return MixedbreadResponse.from_answer(await answer(request, body, response))

    @app.post("/v1/models/rerank", summary="Rerank in ZeroEntropy's format", responses=error_documentation())
    async def rerank_zeroentropy(request: Request, response: Response, body: CommonRequest) -> ZeroentropyResponse:
        return ZeroentropyResponse.from_answer(await answer(request, body, response))


def add_warnings_header(response: Response, warnings: Sequence[str]) -> None:
    """Add the warnings to the headers of a response, for dialects whose bodies have no field for warnings.

    The header is one line of at most 1000 ASCII characters; other characters are replaced by ``?``.
    """
    if warnings:
        line = " ".join("; ".join(warnings).split())  # a header is one line
        response.headers[WARNINGS_HEADER] = "".join(c if " " <= c <= "~" else "?" for c in line)[:1000]
