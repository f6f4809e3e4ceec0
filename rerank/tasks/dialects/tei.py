"""The rerank API of Text Embeddings Inference (TEI): ``POST /rerank`` with ``texts``; the response is a list."""

from __future__ import annotations

from typing import Literal

from rerank.tasks.dialects.question import ApiBody, GivenText, RerankAnswer, RerankBody, RerankQuestion


class TeiRequest(RerankBody):
    """A request of TEI's rerank API. Long texts are always truncated at the end, and scores are never raw."""

    query: GivenText
    texts: list[GivenText]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] = "Right"

    def to_question(self) -> RerankQuestion:
        """Convert the request to a `RerankQuestion`, with a warning for each setting that has no effect."""
        warnings = []
        if self.raw_scores:
            warnings.append("raw_scores has no effect: the server has no raw scores that clients could compare")
        if self.truncate is False:
            warnings.append("truncate: false has no effect: texts that are too long are truncated")
        if self.truncation_direction.lower() == "left":
            warnings.append("truncation_direction has no effect: texts that are too long are truncated at the end")
        return RerankQuestion(
            query=self.query,
            documents=self.texts,
            returns_documents=self.return_text,
            scores=self.scores,
            instruction=self.instruction or "",
            deadline=self.deadline,
            warnings=warnings,
        )


class TeiResult(ApiBody):
    """Index and score of one document, with its text if ``return_text`` is true."""

    index: int
    score: float
    text: str | None = None


def tei_results(answer: RerankAnswer) -> list[TeiResult]:
    """Convert a `RerankAnswer` to the list of results that TEI returns, best first."""
    question = answer.question
    return [
        TeiResult(
            index=result.index,
            score=result.relevance_score,
            text=question.documents[result.index] if question.returns_documents else None,
        )
        for result in answer.results
    ]
