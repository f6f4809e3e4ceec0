"""Base class of judges that score one document at a time and sort by score."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rerank.errors import UsageError
from rerank.judges.base import PromptJudge, ScoreKind, Verdict, failed_judge_verdict, rank_window_by_score
from rerank.judges.base.continuations import make_judge_continuation_request
from rerank.registry import plugin_name
from rerank.tasks import ContinuationTask, Reply, Request
from rerank.types import Query, Window


@dataclass(frozen=True, kw_only=True)
class PointwiseJudge(PromptJudge):
    """A judge with one request per document. Windows can have any length, and documents do not affect each other.

    Raises:
        UsageError: The prompt shows several passages.
    """

    needs: ClassVar[tuple[type[Any], ...]] = (ContinuationTask,)
    sorts_by_score = True
    #: Meaning of the score of a document, such as ``log-likelihood of the query``.
    score_name: ClassVar[str] = "score"

    def __post_init__(self) -> None:
        """Check that the prompt shows one passage."""
        super().__post_init__()
        if self.template.method != "pointwise":
            raise UsageError(
                f"The judge {plugin_name(type(self))!r} with prompt {self.template.name!r}, whose method is "
                f"{self.template.method}",
                expected="a prompt with 'method: pointwise'",
                remedy=f"Omit --prompt to use {self.prompt!r}",
            )

    @classmethod
    def calls(cls, n: int) -> int:
        """Return the number of requests for a window of ``n`` documents, which is ``n``."""
        return n

    @property
    def score_kind(self) -> ScoreKind:
        """The meaning of a document's score, which does not depend on the other documents."""
        return ScoreKind(self.score_name, "absolute")

    @abstractmethod
    def continuations(self, query: Query) -> tuple[str, ...]:
        """Return the continuations of a document's prompt whose log-probabilities are needed."""

    @abstractmethod
    def score(self, logs: Sequence[float]) -> float:
        """Return a document's score from the log-probabilities of the continuations; larger is more relevant."""

    def make_requests(self, window: Window) -> list[Request]:
        """Return one request per document, with its passage truncated so that it fits."""
        continuations = self.continuations(window.query)
        return [
            make_judge_continuation_request(
                self, Window(window.query, (doc,), window.scores[index : index + 1]), continuations
            )
            for index, doc in enumerate(window.docs)
        ]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """Order the window with `rank_by_score`; ties keep their order.

        If documents have no score, they keep their positions, the others are ordered among the remaining positions, and
        the window counts as a failure.
        """
        expected = len(self.continuations(window.query))
        scored = [index for index, reply in enumerate(replies) if len(reply.scores) == expected]
        first_stage = tuple(window.scores[index] for index in scored if window.scores)
        part = Window(window.query, tuple(window.docs[index] for index in scored), first_stage)
        verdict = self.rank_by_score([self.score(replies[index].scores) for index in scored], part)
        failure = failed_judge_verdict(replies, len(window))
        if failure is None and len(scored) < len(window):
            failure = rank_window_by_score((), len(window))
        if failure is None:
            return verdict
        # Scored documents are put into the positions that they had, best first; the others keep their positions.
        order = list(range(len(window)))
        for position, best in zip(scored, verdict.order, strict=True):
            order[position] = scored[best]
        detail = f"{len(window) - len(scored)} of {len(window)} documents without a score: {failure.detail}"
        return replace(failure, order=tuple(order), detail=detail)
