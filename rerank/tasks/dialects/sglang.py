"""SGLang's rerank API, answered by a list: ``POST /v1/rerank`` there, ``/sglang/v1/rerank`` on our server."""

from __future__ import annotations

from typing import Any

from rerank.tasks.dialects.question import ApiBody, RerankAnswer


class SglangResult(ApiBody):
    """A result."""

    score: float
    document: str | None = None
    index: int
    meta_info: dict[str, Any]


def sglang_results(answer: RerankAnswer) -> list[SglangResult]:
    """Return the results of an answer, best first."""
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
