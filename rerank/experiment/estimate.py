"""Upper bounds on the cost of a run, computed by running its strategy with a judge that only counts requests.

For adaptive strategies (heaps, bubble sort, top-down), the number of calls depends on the replies. Their maximum number
of calls is used, and tokens are scaled in proportion. Prompt tokens are exact for the first window of a query and
approximate for later windows, whose documents depend on replies. Completion tokens are an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerank.experiment.candidates import order_candidate_list_of_spec
from rerank.experiment.prepare import PreparedRun
from rerank.judges.base import OversizedWindow, PromptJudge, ScoreKind, Verdict
from rerank.models.prices import compute_cost_by_model_name
from rerank.pipeline.stream import Flow, Ranker, drive_ranking_stream
from rerank.prompts.base import TokenCounter
from rerank.tasks import Reply, Request
from rerank.types import Window


@dataclass(kw_only=True)
class _CountingJudge:
    """A judge that counts the requests of another judge, sends none, and keeps the order of every window."""

    judge: PromptJudge
    counter: TokenCounter
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def score_kind(self) -> ScoreKind | None:
        return None

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        requests = self.judge.requests(window)
        if isinstance(requests, OversizedWindow):
            return requests
        for request in requests:
            self.calls += 1
            self.tokens_in += self.counter.count(request.prompt)
            self.tokens_out += request.sampling.max_tokens + request.sampling.thinking
        return []  # nothing is sent

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        return Verdict(order=tuple(range(len(window))), status="ok")


def estimate_run_cost(prepared: PreparedRun) -> dict[str, Any]:
    """Estimate the calls and tokens of a prepared run, without calling the model.

    Returns:
        ``queries``; upper bounds ``calls``, ``tokens_in`` and ``tokens_out``; ``cost`` in US dollars, None if unknown.
    """
    counting = _CountingJudge(judge=prepared.judge, counter=prepared.backend.tokens)
    ranker = Ranker(strategy=prepared.setup.strategy, judge=counting, passages=prepared.setup.passages)
    lists = (order_candidate_list_of_spec(ranking, prepared.spec) for ranking in prepared.lists)
    for _ in drive_ranking_stream(lists, ranker, prepared.backend, Flow.of(prepared.backend)):
        pass  # iterating runs the strategy, and the judge counts the requests
    calls = max(prepared.calls(), counting.calls) if counting.calls else 0
    tokens_in, tokens_out = (
        math.ceil(tokens * calls / max(1, counting.calls)) for tokens in (counting.tokens_in, counting.tokens_out)
    )
    return {
        "queries": prepared.lists.survey.queries,
        "calls": calls,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost": compute_cost_by_model_name(prepared.spec.model, tokens_in, tokens_out),
    }
