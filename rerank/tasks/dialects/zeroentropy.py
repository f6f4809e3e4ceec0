"""ZeroEntropy's rerank API: ``POST /v1/models/rerank``. Its requests are parsed as `CommonRequest`."""

from __future__ import annotations

from rerank.tasks.dialects.question import ApiBody, RerankAnswer


class ZeroentropyResult(ApiBody):
    """Index and relevance score of one document."""

    index: int
    relevance_score: float


class ZeroentropyResponse(ApiBody):
    """A response of ZeroEntropy's rerank API, without the latencies that ZeroEntropy reports."""

    results: list[ZeroentropyResult]
    total_bytes: int
    total_tokens: int

    @classmethod
    def from_answer(cls, answer: RerankAnswer) -> ZeroentropyResponse:
        """Convert a `RerankAnswer` to a response."""
        texts = [answer.question.query, *answer.question.documents]
        return cls(
            results=[
                ZeroentropyResult(index=result.index, relevance_score=result.relevance_score)
                for result in answer.results
            ],
            total_bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
            total_tokens=answer.tokens,
        )
