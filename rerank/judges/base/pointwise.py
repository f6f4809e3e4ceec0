"""Judges that ask about one document at a time and sort by what they hear. Knows no particular question."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rerank.errors import UsageError
from rerank.judges.base import Asking, Verdict, by_score, failed
from rerank.judges.base.continuations import weighing
from rerank.tasks import ContinuationTask, Reply, Request
from rerank.types import Query, Window


@dataclass(frozen=True, kw_only=True)
class Pointwise(Asking):
    """One request a document, so that windows of any length fit and no document sees another.

    Raises:
        UsageError: The prompt is one about several passages.
    """

    needs = (ContinuationTask,)

    def __post_init__(self) -> None:
        """Check that the prompt is about one passage."""
        super().__post_init__()
        if self.template.method != "pointwise":
            raise UsageError(
                f"The judge {type(self).__name__.lower()!r} with prompt {self.template.name!r}, which is "
                f"{self.template.method}",
                expected="a prompt with 'method: pointwise'",
                remedy=f"Leave --prompt out to take {self.prompt!r}",
            )

    @classmethod
    def calls(cls, n: int) -> int:
        """One a document."""
        return n

    @abstractmethod
    def continuations(self, query: Query) -> tuple[str, ...]:
        """What is weighed behind the prompt about one document."""

    @abstractmethod
    def score(self, logs: Sequence[float]) -> float:
        """A document's score from the log-probabilities of the continuations; larger is more relevant."""

    def requests(self, window: Window) -> list[Request]:
        """One question a document, cut so that it fits."""
        weighed = self.continuations(window.query)
        return [
            weighing(self, Window(window.query, (doc,), window.scores[at : at + 1]), weighed)
            for at, doc in enumerate(window.docs)
        ]

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        """The order of falling scores, ties as given.

        Documents whose reply never came keep their places, the others are put in order around them, and the window
        counts as a failure.
        """
        expected = len(self.continuations(window.query))
        heard = [at for at, reply in enumerate(replies) if len(reply.scores) == expected]
        found = by_score([self.score(replies[at].scores) for at in heard], len(heard))
        lost = failed(replies, len(window))
        if lost is None and len(heard) < len(window):
            lost = by_score((), len(window))
        if lost is None:
            return found
        order = list(range(len(window)))
        for place, best in zip(heard, found.order, strict=True):
            order[place] = heard[best]
        detail = f"{len(window) - len(heard)} of {len(window)} documents without a score: {lost.detail}"
        return replace(lost, order=tuple(order), detail=detail)
