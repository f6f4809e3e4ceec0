"""A request body and a response body that are valid for Cohere version 1, Jina, vLLM and Voyage.

The response contains the results twice: in ``results`` for Cohere, Jina and vLLM, and in ``data`` for Voyage.
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
    """A request of any of the four rerank APIs. If ``top_n`` is 0, all results are returned, as in vLLM.

    The field ``results`` of the response contains the texts unless ``return_documents`` is false.
    """

    model: str = ""
    query: GivenText
    documents: list[GivenDocument]
    top_n: int | None = Field(default=None, ge=0, validation_alias=AliasChoices("top_n", "top_k"))
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    max_tokens_per_doc: int | None = Field(default=None, ge=0)

    def to_question(self) -> RerankQuestion:
        """Convert the request to a `RerankQuestion`."""
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
    """The document of a result, as an object that contains its text."""

    text: str


class CommonResult(ApiBody):
    """A result for Cohere version 1, Jina and vLLM."""

    index: int
    relevance_score: float
    document: CommonDocument | None = None


class VoyageResult(ApiBody):
    """A result for Voyage, in which the document is a plain text."""

    index: int
    relevance_score: float
    document: str | None = None


class CommonUsage(ApiBody):
    """Numbers of prompt tokens and of all tokens."""

    prompt_tokens: int
    total_tokens: int


class CommonResponse(ApiBody):
    """A response that clients of all four APIs can parse."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[CommonResult]
    data: list[VoyageResult]
    usage: CommonUsage
    meta: dict[str, Any]

    @classmethod
    def from_answer(cls, answer: RerankAnswer, *, repeats_documents: bool = False) -> CommonResponse:
        """Convert a `RerankAnswer` to a response.

        Args:
            answer: The answer.
            repeats_documents: Whether ``data`` contains the texts too. Voyage's clients request them explicitly.
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
