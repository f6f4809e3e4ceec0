"""Judging windows in tests, without a driver."""

from __future__ import annotations

from collections.abc import Sequence

from rerank.backends.fake import Fake
from rerank.judges import PromptJudge, Verdict
from rerank.judges.base import OversizedWindow, ScoreKind
from rerank.pipeline.passages import DocumentSplitter
from rerank.pipeline.results import RerankOutcome
from rerank.pipeline.stream import rank_together
from rerank.strategies import Strategy
from rerank.tasks import Reply, Request
from rerank.types import Ranking, Window


def judge_windows(judge: PromptJudge, windows: Sequence[Window]) -> list[Verdict]:
    """Ask the judge's backend about all windows at once, and return their verdicts."""
    asked = [requests_of(judge, window) for window in windows]
    together = [request for requests in asked for request in requests]
    replies = iter(judge.backend.generate(together) if together else [])
    return [
        judge.verdict(window, [next(replies) for _ in requests])
        for window, requests in zip(windows, asked, strict=True)
    ]


def requests_of(judge: PromptJudge, window: Window) -> list[Request]:
    """Return the requests for a window that fits the context."""
    requests = judge.requests(window)
    assert not isinstance(requests, OversizedWindow), f"only {requests.capacity} documents fit"
    return requests


class SilentJudge:
    """A judge that decides by itself, without requests."""

    score_kind: ScoreKind | None = None

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        return []

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        return self.decide(window)

    def decide(self, window: Window) -> Verdict:
        raise NotImplementedError


def drive_silently(
    rankings: Sequence[Ranking],
    strategy: Strategy,
    judge: SilentJudge,
    *,
    top_k: int | None = None,
    passages: DocumentSplitter | None = None,
) -> RerankOutcome:
    """Drive a strategy with a judge that sends nothing."""
    return rank_together(rankings, strategy, judge, Fake("reversed"), top_k=top_k, passages=passages)
