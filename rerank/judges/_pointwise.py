"""Judges that ask about one document at a time and sort by what they hear. Knows no particular question."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from rerank.backends.base import Reply, Request, Weigh
from rerank.errors import UsageError
from rerank.judges._weighing import weighing
from rerank.judges.base import Asking, Verdict, by_score, failed
from rerank.types import Query, Window


@dataclass(frozen=True, kw_only=True)
class Pointwise(Asking):
    """One request a document, so that windows of any length fit and no document sees another.

    Raises:
        UsageError: The prompt is one about several passages.
    """

    needs = (Weigh,)

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
        """The order of falling scores, ties as given; one reply that never came spoils the window."""
        expected = len(self.continuations(window.query))
        complete = [reply.scores for reply in replies if len(reply.scores) == expected]
        return failed(replies, len(window)) or by_score([self.score(logs) for logs in complete], len(window))
