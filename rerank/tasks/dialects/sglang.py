"""SGLang's rerank API, which responds with a list: ``POST /v1/rerank``, or ``/sglang/v1/rerank`` on our server."""

from __future__ import annotations

from typing import Any

from rerank.tasks.dialects.question import ApiBody, RerankAnswer


class SglangResult(ApiBody):
    """Index and score of one document, with its text if it was requested."""

    score: float
    document: str | None = None
    index: int
    meta_info: dict[str, Any]


def sglang_results(answer: RerankAnswer) -> list[SglangResult]:
    """Convert a `RerankAnswer` to the list of results that SGLang returns, best first."""
    question = answer.question
    info = {"id": answer.id, "prompt_tokens": answer.tokens_in, "warnings": list(answer.warnings)}
    return [
        SglangResult(
            score=result.relevance_score,
            document=question.documents[result.index] if question.returns_documents else None,
            index=result.index,
            meta_info=info,
        )
        for result in answer.results
    ]
