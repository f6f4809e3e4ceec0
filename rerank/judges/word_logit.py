"""The word-logit judge, for rerankers that were trained to express relevance as the logit of one word.

Source: bge-reranker-v2-gemma, FlagEmbedding (github.com/FlagOpen/FlagEmbedding), which reads the logit of "Yes"; zerank
and Contextual AI's rerankers do the same with other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.errors import UsageError
from rerank.judges.base.pointwise import PointwiseJudge
from rerank.tasks import LogitTask
from rerank.types import Query


@dataclass(frozen=True, kw_only=True)
class WordLogit(PointwiseJudge):
    """A judge that scores a document by the logit of one word at the end of the prompt, before the softmax.

    The log-probability of the word would give another order, since the normaliser of the softmax differs between
    documents. n documents need n requests with one forward pass each.

    Attributes:
        word: The word, which must be a single token.
    """

    needs = (LogitTask,)
    prompt = "pointwise"
    score_name = "logit of the word"

    word: str = "Yes"

    def __post_init__(self) -> None:
        """Check the word."""
        super().__post_init__()
        if not self.word:
            raise UsageError("word is empty", expected="the word whose logit is the score, such as Yes")

    def continuations(self, query: Query) -> tuple[str, ...]:
        """Return the word as the only continuation."""
        return (self.word,)

    def score(self, logs: Sequence[float]) -> float:
        """Return the logit of the word as the document's score."""
        return logs[0]
