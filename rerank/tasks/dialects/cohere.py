"""Cohere's rerank API, version 2: ``POST /v2/rerank``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rerank.tasks.dialects.question import (
    ApiBody,
    GivenDocument,
    GivenText,
    RerankAnswer,
    RerankBody,
    RerankQuestion,
    SpanSettings,
    document_texts,
)


class RelevantSpans(ApiBody):
    """Settings for returning the relevant spans of documents: mode, minimum score and maximum number per document."""

    mode: Literal["enabled", "disabled"] = "disabled"
    threshold: float | None = Field(default=None, ge=0, le=1)
    max_spans: int | None = Field(default=None, ge=1)


class CohereRequest(RerankBody):
    """A request of Cohere's rerank API, version 2. If ``top_n`` is 0, all results are returned."""

    model: str = ""
    query: GivenText
    documents: list[GivenDocument]
    top_n: int | None = Field(default=None, ge=0)
    max_tokens_per_doc: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    relevant_spans: RelevantSpans | None = None
    priority: int | None = None

    def to_question(self) -> RerankQuestion:
        """Convert the request to a `RerankQuestion`."""
        asked = self.relevant_spans
        spans = None
        if asked is not None and asked.mode == "enabled":
            defaults = SpanSettings()
            threshold = defaults.threshold if asked.threshold is None else asked.threshold
            spans = SpanSettings(threshold=threshold, max_spans=asked.max_spans)
        return RerankQuestion(
            query=self.query,
            documents=document_texts(self.documents),
            model=self.model,
            top_n=self.top_n or None,
            returns_documents=self.return_documents,
            scores=self.scores,
            instruction=self.instruction or "",
            max_document_tokens=self.max_tokens_per_doc,
            deadline=self.deadline,
            spans=spans,
        )


class CohereSpan(ApiBody):
    """A relevant span, in code points [start, end) of the document."""

    start: int
    end: int
    score: float


class CohereDocument(ApiBody):
    """The document of a result, returned on request."""

    text: str


class CohereResult(ApiBody):
    """Index and relevance score of one document, with its spans and text if they were requested."""

    index: int
    relevance_score: float
    relevant_spans: list[CohereSpan] | None = None
    document: CohereDocument | None = None


class CohereResponse(ApiBody):
    """A response of Cohere's rerank API, version 2. ``meta`` has the version, tokens, billed units and warnings."""

    id: str
    results: list[CohereResult]
    meta: dict[str, Any]

    @classmethod
    def from_answer(cls, answer: RerankAnswer) -> CohereResponse:
        """Convert a `RerankAnswer` to a response."""
        results = [
            CohereResult(
                index=result.index,
                relevance_score=result.relevance_score,
                relevant_spans=None
                if result.spans is None
                else [CohereSpan(start=span.start, end=span.end, score=span.score) for span in result.spans],
                document=CohereDocument(text=answer.question.documents[result.index])
                if answer.question.returns_documents
                else None,
            )
            for result in answer.results
        ]
        return cls(id=answer.id, results=results, meta=cohere_meta(answer, version="2"))


def cohere_meta(answer: RerankAnswer, *, version: str) -> dict[str, Any]:
    """Return the field ``meta`` of a response, for the given version of the API."""
    meta: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": answer.tokens_in, "output_tokens": answer.tokens_out},
        "cached_tokens": answer.tokens_cached,
    }
    if answer.warnings:
        meta["warnings"] = list(answer.warnings)
    return meta
