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
    """A request of Mixedbread's rerank API, whose field ``rewrite_query`` is ignored."""

    model: str = ""
    query: str
    input: list[GivenDocument]
    top_k: int | None = Field(default=None, ge=1)
    return_input: bool = False
    rank_fields: list[str] | None = None

    def to_question(self) -> RerankQuestion:
        """Convert the request to a `RerankQuestion`."""
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
    """Index and score of one document, with its text if ``return_input`` is true."""

    index: int
    score: float
    input: str | None = None
    object: Literal["rank_result"] = "rank_result"


class MixedbreadResponse(ApiBody):
    """A response of Mixedbread's rerank API."""

    object: Literal["list"] = "list"
    model: str
    data: list[MixedbreadResult]
    usage: CommonUsage
    top_k: int
    return_input: bool

    @classmethod
    def from_answer(cls, answer: RerankAnswer) -> MixedbreadResponse:
        """Convert a `RerankAnswer` to a response."""
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
