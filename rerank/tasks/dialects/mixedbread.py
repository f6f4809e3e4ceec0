"""Mixedbread's rerank API: ``POST /v1/reranking``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rerank.tasks.dialects.common import CommonUsage
from rerank.tasks.dialects.question import (
    ApiBody,
    GivenDocument,
    RerankAnswer,
    RerankBody,
    RerankQuestion,
    document_texts,
)


class MixedbreadRequest(RerankBody):
    """A request. ``rewrite_query`` has no effect."""

    model: str = ""
    query: str
    input: list[GivenDocument]
    top_k: int | None = Field(default=None, ge=1)
    return_input: bool = False
    rank_fields: list[str] | None = None

    def to_question(self) -> RerankQuestion:
        """Return the content of the request."""
        return RerankQuestion(
            query=self.query,
            documents=document_texts(self.input, self.rank_fields),
            model=self.model,
            top_n=self.top_k,
            returns_documents=self.return_input,
            scores=self.scores,
            instruction=self.instruction or "",
            deadline=self.deadline,
        )


class MixedbreadResult(ApiBody):
    """A result."""

    index: int
    score: float
    input: str | None = None
    object: Literal["rank_result"] = "rank_result"


class MixedbreadResponse(ApiBody):
    """A response."""

    object: Literal["list"] = "list"
    model: str
    data: list[MixedbreadResult]
    usage: CommonUsage
    top_k: int
    return_input: bool

    @classmethod
    def from_answer(cls, answer: RerankAnswer) -> MixedbreadResponse:
        """Return the response for an answer."""
        question = answer.question
        return cls(
            model=answer.model,
            data=[
                MixedbreadResult(
                    index=result.index,
                    score=result.relevance_score,
                    input=question.documents[result.index] if question.returns_documents else None,
                )
                for result in answer.results
            ],
            usage=CommonUsage(prompt_tokens=answer.tokens_in, total_tokens=answer.tokens),
            top_k=len(answer.results),
            return_input=question.returns_documents,
        )
