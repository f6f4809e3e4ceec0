"""One request and one response that are valid for Cohere version 1, Jina, vLLM and Voyage.

The response has the results twice: ``results`` as Cohere, Jina and vLLM expect them, and ``data`` as Voyage does.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field

from rerank.tasks.dialects.cohere import cohere_meta
from rerank.tasks.dialects.question import (
    ApiBody,
    GivenDocument,
    GivenText,
    RerankAnswer,
    RerankBody,
    RerankQuestion,
    document_texts,
)


class CommonRequest(RerankBody):
    """A request. ``top_n`` 0 means all, as in vLLM; without ``return_documents``, ``results`` contain the texts."""

    model: str = ""
    query: GivenText
    documents: list[GivenDocument]
    top_n: int | None = Field(default=None, ge=0, validation_alias=AliasChoices("top_n", "top_k"))
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    max_tokens_per_doc: int | None = Field(default=None, ge=0)

    def to_question(self) -> RerankQuestion:
        """Return the content of the request."""
        return RerankQuestion(
            query=self.query,
            documents=document_texts(self.documents, self.rank_fields),
            model=self.model,
            top_n=self.top_n or None,
            returns_documents=self.return_documents is not False,
            scores=self.scores,
            instruction=self.instruction or "",
            max_document_tokens=self.max_tokens_per_doc or None,
            deadline=self.deadline,
        )


class CommonDocument(ApiBody):
    """The text of a result."""

    text: str


class CommonResult(ApiBody):
    """A result for Cohere version 1, Jina and vLLM."""

    index: int
    relevance_score: float
    document: CommonDocument | None = None


class VoyageResult(ApiBody):
    """A result for Voyage, whose documents are plain texts."""

    index: int
    relevance_score: float
    document: str | None = None


class CommonUsage(ApiBody):
    """Numbers of tokens."""

    prompt_tokens: int
    total_tokens: int


class CommonResponse(ApiBody):
    """A response that clients of all four APIs can read."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[CommonResult]
    data: list[VoyageResult]
    usage: CommonUsage
    meta: dict[str, Any]

    @classmethod
    def from_answer(cls, answer: RerankAnswer, *, repeats_documents: bool = False) -> CommonResponse:
        """Return the response for an answer.

        Args:
            answer: The answer.
            repeats_documents: Whether ``data`` contains the texts too; Voyage's clients ask for it explicitly.
        """
        texts = answer.question.documents if answer.question.returns_documents else None
        return cls(
            id=answer.id,
            model=answer.model,
            results=[
                CommonResult(
                    index=result.index,
                    relevance_score=result.relevance_score,
                    document=None if texts is None else CommonDocument(text=texts[result.index]),
                )
                for result in answer.results
            ],
            data=[
                VoyageResult(
                    index=result.index,
                    relevance_score=result.relevance_score,
                    document=texts[result.index] if texts is not None and repeats_documents else None,
                )
                for result in answer.results
            ],
            usage=CommonUsage(prompt_tokens=answer.tokens_in, total_tokens=answer.tokens),
            meta=cohere_meta(answer, version="1"),
        )
